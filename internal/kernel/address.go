//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Owner marks addresses and routes with who set them, so that each of us removes only what
// it has set itself, also after a restart. The kernel keeps it (IFA_PROTO, RTA_PROTOCOL)
// and `ip -d address` and `ip route` show it. Values that no routing daemon has taken.
type Owner uint8

// The owners.
const (
	OwnerSegment Owner = 72
	OwnerUplink  Owner = 73
	OwnerNAPT    Owner = 74
	OwnerVRRP    Owner = 75
)

// ifaProto is IFA_PROTO of linux/if_addr.h, since Linux 5.18; older kernels ignore it.
const ifaProto = 11

// Address is one address of a link.
type Address struct {
	Prefix netip.Prefix // the address itself and the length of its prefix
	Owner  Owner        // 0 and others: not ours
	// Usable is false while the kernel looks for a duplicate of an IPv6 address, and after
	// it has found one.
	Usable bool
}

// Addresses lists the link's addresses of both families, link-local ones too.
func Addresses(link string) ([]Address, error) {
	l, err := find(link)
	if err != nil {
		return nil, err
	}
	var all []Address
	err = dump(func() error {
		all = nil
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		for _, m := range messages {
			if a, index := parseAddress(m); index == l.Attrs().Index && a.Prefix.IsValid() {
				all = append(all, a)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link, err)
	}
	return all, nil
}

// dump repeats f while its list changes under its eyes.
func dump(f func() error) error {
	var err error
	for range 5 {
		if err = f(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return err
}

func parseAddress(m []byte) (a Address, index int) {
	msg := nl.DeserializeIfAddrmsg(m)
	attributes, err := nl.ParseRouteAttr(m[msg.Len():])
	if err != nil {
		return a, 0
	}
	flags := uint32(msg.Flags)
	var local, address netip.Addr
	for _, x := range attributes {
		switch x.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(x.Value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(x.Value)
		case unix.IFA_FLAGS:
			if len(x.Value) >= 4 {
				flags = nl.NativeEndian().Uint32(x.Value)
			}
		case ifaProto:
			if len(x.Value) >= 1 {
				a.Owner = Owner(x.Value[0])
			}
		}
	}
	if !local.IsValid() { // IPv6 says it in IFA_ADDRESS, which is the peer's in IPv4
		local = address
	}
	a.Prefix = netip.PrefixFrom(local, int(msg.Prefixlen))
	a.Usable = flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0
	return a, int(msg.Index)
}

// AddAddress puts an address on the link, or makes it the owner's if it is there. IPv6
// addresses serve at once, without looking for duplicates: the plan has seen to that.
func AddAddress(link string, p netip.Prefix, owner Owner) error {
	return AddLease(link, p, owner, 0)
}

// AddLease is AddAddress for an address that the kernel removes by itself after valid, so
// that it does not outlive its lease when nobody looks after it; 0 is for ever.
func AddLease(link string, p netip.Prefix, owner Owner, valid time.Duration) error {
	seconds := uint32(forever)
	if s := valid / time.Second; s > 0 && s < forever {
		seconds = uint32(s)
	}
	err := address(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, link, p, owner, lifetime{seconds, seconds})
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", p, link, err)
	}
	return nil
}

// forever is the lifetime that never ends, in the kernel and in DHCP (RFC 2131 section 3.3).
const forever = 0xffffffff

// DeleteAddress takes an address off the link; one that is not there is no error.
func DeleteAddress(link string, p netip.Prefix) error {
	err := address(unix.RTM_DELADDR, 0, link, p, 0, lifetime{})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("delete %s from %s: %w", p, link, err)
	}
	return nil
}

// lifetime of an address, in seconds.
type lifetime struct{ valid, preferred uint32 }

func address(deed, flags int, link string, p netip.Prefix, owner Owner, life lifetime) error {
	l, err := find(link)
	if err != nil {
		return err
	}
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Prefixlen, msg.Index = uint8(p.Bits()), uint32(l.Attrs().Index)
	if p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
		msg.Scope = unix.RT_SCOPE_LINK
	}
	req := nl.NewNetlinkRequest(deed, flags|unix.NLM_F_ACK)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.Addr().AsSlice()))
	if deed == unix.RTM_NEWADDR {
		if p.Addr().Is4() && p.Bits() < 31 {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, broadcast(p)))
		}
		if p.Addr().Is6() {
			req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD)))
		}
		cache := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Prefered: life.preferred, Valid: life.valid}}
		req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, cache.Serialize()))
		req.AddData(nl.NewRtAttr(ifaProto, nl.Uint8Attr(uint8(owner))))
	}
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

func broadcast(p netip.Prefix) []byte {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b[:]
}
