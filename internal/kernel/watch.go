//go:build linux

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watch tells, by a value on the channel, that a link, an address, a route or a packet
// filter of the calling thread's namespace has changed; several changes may be one value.
// It ends, and the channel is closed, when ctx does.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	const routes = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	r, err := subscribe(unix.NETLINK_ROUTE, routes)
	if err != nil {
		return nil, err
	}
	n, err := subscribe(unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1))
	if err != nil {
		r.Close()
		return nil, err
	}
	changed := make(chan struct{}, 1)
	ended := make(chan struct{}, 2)
	for _, f := range []*os.File{r, n} {
		go func() {
			wake(f, changed)
			ended <- struct{}{}
		}()
	}
	go func() {
		<-ctx.Done()
		r.Close()
		n.Close()
		<-ended
		<-ended
		close(changed)
	}()
	return changed, nil
}

func subscribe(protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribe to netlink notifications: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// wake reads until the file is closed. What the messages say does not matter: who is woken
// looks for itself. So lost ones (ENOBUFS) are a change too.
func wake(f *os.File, changed chan<- struct{}) {
	buffer := make([]byte, 1<<16)
	for {
		if _, err := f.Read(buffer); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}
