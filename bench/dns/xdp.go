//go:build linux

package main

import (
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// passXDP puts a program that lets every packet pass on the client's end of the link: what a
// system sends back by XDP_TX reaches the other end of a veth only when that one has a program
// too. Every system of a comparison gets it alike.
func (s *stage) passXDP() error {
	err := s.client.Do(func() error {
		dev, err := net.InterfaceByName("w0")
		if err != nil {
			return err
		}
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Dual MIT/GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 2), // XDP_PASS
			asm.Return(),
		}})
		if err != nil {
			return err
		}
		defer pass.Close() // the link keeps it
		l, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: dev.Index})
		if err != nil {
			return err
		}
		s.closers = append(s.closers, func() { l.Close() })
		return nil
	})
	if err != nil {
		return fmt.Errorf("XDP_PASS on the client's link: %w", err)
	}
	return nil
}
