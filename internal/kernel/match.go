//go:build linux

package kernel

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What rules are made of. Each function gives the parts of a rule that match or do one
// thing, for R. Registers are not kept from one part to the next.

// register is the one 16-byte register that all parts work in.
const register = 1

// FromLinks matches packets that came in by a link of the set, or, negated, by another.
func FromLinks(set string, in bool) []expr.Any { return linkIn(expr.MetaKeyIIFNAME, set, in) }

// ToLinks matches packets that go out by a link of the set, or, negated, by another.
func ToLinks(set string, in bool) []expr.Any { return linkIn(expr.MetaKeyOIFNAME, set, in) }

func linkIn(key expr.MetaKey, set string, in bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Lookup{SourceRegister: register, SetName: set, Invert: !in},
	}
}

// FromLink matches packets that came in by the link.
func FromLink(name string) []expr.Any { return linkIs(expr.MetaKeyIIFNAME, name) }

// ToLink matches packets that go out by the link.
func ToLink(name string) []expr.Any { return linkIs(expr.MetaKeyOIFNAME, name) }

func linkIs(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: linkName(name)},
	}
}

// Offsets and lengths in the headers of RFC 791 section 3.1 and RFC 8200 section 3.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

// Family matches packets of one family: unix.NFPROTO_IPV4 or _IPV6.
func Family(f byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{f}},
	}
}

// To4 matches IPv4 packets to an address of the set.
func To4(set string) []expr.Any { return addressIn(unix.NFPROTO_IPV4, destination4, 4, set) }

// To6 matches IPv6 packets to an address of the set.
func To6(set string) []expr.Any { return addressIn(unix.NFPROTO_IPV6, destination6, 16, set) }

// From4 matches IPv4 packets from an address of the set.
func From4(set string) []expr.Any { return addressIn(unix.NFPROTO_IPV4, source4, 4, set) }

// From6 matches IPv6 packets from an address of the set.
func From6(set string) []expr.Any { return addressIn(unix.NFPROTO_IPV6, source6, 16, set) }

func addressIn(family byte, offset, length uint32, set string) []expr.Any {
	return append(Family(family),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Lookup{SourceRegister: register, SetName: set})
}

// NotFrom matches packets of the first prefix's family whose source is in none of the
// prefixes; those of the other family are passed over.
func NotFrom(first netip.Prefix, others ...netip.Prefix) []expr.Any {
	family, offset, length := byte(unix.NFPROTO_IPV4), uint32(source4), uint32(4)
	if first.Addr().Is6() {
		family, offset, length = unix.NFPROTO_IPV6, source6, 16
	}
	parts := Family(family)
	for _, p := range append([]netip.Prefix{first}, others...) {
		if p.Addr().Is6() != first.Addr().Is6() {
			continue
		}
		mask := make([]byte, length)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		parts = append(parts,
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: length, Mask: mask, Xor: make([]byte, length)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: p.Masked().Addr().AsSlice()})
	}
	return parts
}

// Protocol matches packets of one transport protocol: unix.IPPROTO_TCP and so on.
func Protocol(p byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{p}},
	}
}

// ToPort matches packets of the transport protocol to the port.
func ToPort(protocol byte, port uint16) []expr.Any {
	return append(Protocol(protocol),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.BigEndian.AppendUint16(nil, port)})
}

// ToPorts matches packets of the transport protocol to a port of the set.
func ToPorts(protocol byte, set string) []expr.Any {
	return append(Protocol(protocol),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: register, SetName: set})
}

// FromPorts matches packets of the transport protocol from a port of the set.
func FromPorts(protocol byte, set string) []expr.Any {
	return append(Protocol(protocol),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Lookup{SourceRegister: register, SetName: set})
}

// Type4 matches ICMP messages of one type.
func Type4(of uint8) []expr.Any {
	return append(Protocol(unix.IPPROTO_ICMP),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{of}})
}

// Types6 matches ICMPv6 messages whose type is in the set.
func Types6(set string) []expr.Any {
	return append(Protocol(unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Lookup{SourceRegister: register, SetName: set})
}

// Known matches packets of flows that connection tracking has let pass before, and errors
// about them.
func Known() []expr.Any { return state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED) }

// Invalid matches packets that belong to no flow.
func Invalid() []expr.Any { return state(expr.CtStateBitINVALID) }

// New matches the first packets of flows.
func New() []expr.Any { return state(expr.CtStateBitNEW) }

func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// Counted adds the packet to the named counter.
func Counted(name string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name}}
}

// Untracked keeps the packet out of connection tracking, in a chain before it: at priority
// raw. It is of no flow then, neither Known nor New nor Invalid.
func Untracked() []expr.Any { return []expr.Any{&expr.Notrack{}} }

// Timed gives the flow, if it is new, to the timer.
func Timed(timer string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_CT_TIMEOUT, Name: timer}}
}

// Accept lets the packet pass this table.
func Accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// Drop drops the packet.
func Drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// Jump goes on in the chain, and comes back unless that decides.
func Jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// ClampMSS lowers the maximum segment size in TCP SYN packets to what the path's smaller
// direction takes, so that hosts behind a link with a small MTU need no path MTU discovery,
// which filters on the way often break. RFC 9293 section 3.7.1 has the option.
func ClampMSS() []expr.Any {
	const syn, rst = 0x02, 0x04
	return append(Protocol(unix.IPPROTO_TCP),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{syn | rst}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{syn}},
		&expr.Rt{Register: register, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: register, DestRegister: register, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: register, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt})
}

// Ports that translated flows get: RFC 6056 section 3.2 leaves the well-known ones alone.
const firstPort, lastPort = 1024, 65535

// TranslateTo makes the source one of the IPv4 addresses from first to last, with ports when
// the protocol, which must have been matched, has them. One source always gets one address
// (persistent), as RFC 4787 REQ-2 wants, and ports are not predictable (fully random).
func TranslateTo(first, last netip.Addr, ports bool) []expr.Any {
	parts := []expr.Any{&expr.Immediate{Register: 1, Data: first.AsSlice()}}
	n := &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 1, FullyRandom: true, Persistent: true, Specified: ports}
	if first != last {
		n.RegAddrMax = 2
		parts = append(parts, &expr.Immediate{Register: 2, Data: last.AsSlice()})
	}
	if ports {
		n.RegProtoMin, n.RegProtoMax = 3, 4
		parts = append(parts,
			&expr.Immediate{Register: 3, Data: binary.BigEndian.AppendUint16(nil, firstPort)},
			&expr.Immediate{Register: 4, Data: binary.BigEndian.AppendUint16(nil, lastPort)})
	}
	return append(parts, n)
}

// Share matches the IPv4 packets of k of n sources, chosen by a hash of the address, so
// that a source is always in or always out.
func Share(k, n int) []expr.Any {
	return append(Family(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: source4, Len: 4},
		&expr.Hash{SourceRegister: 2, DestRegister: register, Length: 4, Modulus: uint32(n), Type: expr.HashTypeJenkins},
		&expr.Byteorder{SourceRegister: register, DestRegister: register, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: register, Data: binary.BigEndian.AppendUint32(nil, uint32(k))})
}

// Masquerade makes the source the address of the link that the packet goes out by. The
// kernel keeps well-known and other ports apart by itself.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }
