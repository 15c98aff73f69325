//go:build linux

package uplink

import "github.com/vishvananda/netlink"

func setDown(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(l)
}
