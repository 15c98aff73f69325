package wire

import "net/netip"

// AppendDHCPRelayed appends to dst the client's message b, which Parse has read, as a relay
// sends it on: one hop more and with its own address (RFC 1542 section 4.1.1), and with info
// as option 82, last of all (RFC 3046 section 2.1). Where the message would be longer than
// most with it, it goes without. A message that a relay has sent already keeps its giaddr
// and gets no option. With room in dst it allocates nothing.
func AppendDHCPRelayed(dst, b []byte, giaddr netip.Addr, info []byte, most int) []byte {
	start, end := len(dst), dhcpOptionsEnd(b)
	dst = append(dst, b[:end]...)
	head := dst[start:]
	head[3]++
	if [4]byte(head[24:28]) == [4]byte{} {
		a := giaddr.As4()
		copy(head[24:28], a[:])
		if n := len(info); n > 0 && n <= 255 && end+2+n+1 <= most {
			dst = append(append(dst, DHCPOptRelayAgent, byte(n)), info...)
		}
	}
	return finishDHCP(dst, start)
}

// AppendDHCPUnrelayed appends to dst the server's message b, which ParseReply has read,
// without the option 82 of its options field, and tells how many bytes of that option's data
// it left out.
func AppendDHCPUnrelayed(dst, b []byte) (out []byte, left int) {
	start, end := len(dst), dhcpOptionsEnd(b)
	dst = append(dst, b[:dhcpFixed+4]...)
	for i := dhcpFixed + 4; i < end; {
		n := 1
		if b[i] != DHCPOptPad {
			n = 2 + int(b[i+1])
		}
		if b[i] == DHCPOptRelayAgent {
			left += n - 2
		} else {
			dst = append(dst, b[i:i+n]...)
		}
		i += n
	}
	return finishDHCP(dst, start), left
}

// finishDHCP ends the message that begins at start.
func finishDHCP(dst []byte, start int) []byte {
	dst = append(dst, DHCPOptEnd)
	for len(dst) < start+dhcpLeastMessage {
		dst = append(dst, DHCPOptPad)
	}
	return dst
}

// dhcpOptionsEnd is where the last option of a parsed message's options field ends.
func dhcpOptionsEnd(b []byte) int {
	end := dhcpFixed + 4
	for i := end; i < len(b) && b[i] != DHCPOptEnd; {
		if b[i] == DHCPOptPad {
			i++
			continue
		}
		i += 2 + int(b[i+1])
		end = i
	}
	return end
}

// AppendDHCPRelayInfo appends the data of option 82: the circuit and the relay itself, RFC
// 3046 sections 3.1 and 3.2. What makes it longer than 255 bytes is cut off.
func AppendDHCPRelayInfo(b []byte, circuit, remote string) []byte {
	const room = (255 - 2*2) / 2
	circuit, remote = circuit[:min(len(circuit), room)], remote[:min(len(remote), room)]
	b = append(append(b, dhcpCircuitID, byte(len(circuit))), circuit...)
	return append(append(b, dhcpRemoteID, byte(len(remote))), remote...)
}

// DHCPCircuit is the circuit in the data of option 82, nil where it has none.
func DHCPCircuit(info []byte) []byte {
	for len(info) >= 2 && len(info) >= 2+int(info[1]) {
		n := 2 + int(info[1])
		if info[0] == dhcpCircuitID {
			return info[2:n]
		}
		info = info[n:]
	}
	return nil
}

// Sub-options of option 82, RFC 3046 section 2.0.
const (
	dhcpCircuitID = 1
	dhcpRemoteID  = 2
)
