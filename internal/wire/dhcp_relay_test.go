package wire

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var relayAddr = netip.MustParseAddr("10.1.0.1")

// What the library reads of a relayed message, and of the reply without option 82.
func TestDHCPRelayed(t *testing.T) {
	info := AppendDHCPRelayInfo(nil, "hall/eth1.101", "gw1")
	in := request(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover), dhcpv4.WithGeneric(dhcpv4.OptionHostName, []byte("lap"))).ToBytes()
	in[3] = 2
	out := AppendDHCPRelayed([]byte("head"), in, relayAddr, info, DHCPMaxMessage)[4:]
	p, err := dhcpv4.FromBytes(out)
	if err != nil {
		t.Fatal(err)
	}
	r := p.RelayAgentInfo()
	if p.HopCount != 3 || p.GatewayIPAddr.String() != "10.1.0.1" || p.HostName() != "lap" || r == nil ||
		string(r.Get(dhcpv4.AgentCircuitIDSubOption)) != "hall/eth1.101" || string(r.Get(dhcpv4.AgentRemoteIDSubOption)) != "gw1" {
		t.Errorf("relayed: %s, %v", p.Summary(), r)
	}
	if string(DHCPCircuit(info)) != "hall/eth1.101" || DHCPCircuit([]byte{2, 1, 0, 1, 9}) != nil {
		t.Errorf("circuit %q", DHCPCircuit(info))
	}
	// Option 82 is the last, and an exact fit still has it.
	at := bytes.Index(out, append([]byte{DHCPOptRelayAgent, byte(len(info))}, info...))
	if at < 0 || out[at+2+len(info)] != DHCPOptEnd {
		t.Errorf("option 82 at %d of %x", at, out)
	}
	exact := at + 2 + len(info) + 1
	for _, most := range []int{exact, exact - 1} {
		out := AppendDHCPRelayed(nil, in, relayAddr, info, most)
		if has := bytes.Contains(out, info); has != (most == exact) {
			t.Errorf("of %d bytes: option 82 is there: %t", most, has)
		}
	}
	// A second relay changes nothing but the hops.
	again := AppendDHCPRelayed(nil, out, netip.MustParseAddr("10.2.0.1"), info, DHCPMaxMessage)
	if out[3]++; !bytes.Equal(again, out) {
		t.Errorf("relayed again:\n%x, want\n%x", again, out)
	}
	reply := bytes.Clone(out)
	reply[0] = dhcpBootReply
	back, left := AppendDHCPUnrelayed(nil, reply)
	if p, err := dhcpv4.FromBytes(back); err != nil || left != len(info) || p.RelayAgentInfo() != nil || p.HostName() != "lap" || p.GatewayIPAddr.String() != "10.1.0.1" {
		t.Errorf("to the client: %v, %d bytes left out, %v", err, left, p)
	}
	if long := AppendDHCPRelayInfo(nil, strings.Repeat("c", 200), strings.Repeat("r", 200)); len(long) > 255 || len(DHCPCircuit(long)) == 0 {
		t.Errorf("info of %d bytes", len(long))
	}
}

// FuzzDHCPRelayed: what we make of any message that we read is read again by us, with the
// same fields and our giaddr, and by the library wherever it reads the first.
func FuzzDHCPRelayed(f *testing.F) {
	f.Add(full(f))
	f.Add(message("\x35\x01\x01\x34\x01\x03\x3d\x02ab\xff", "\x3d\x02cd\xff", "\x3d\x02ef\xff"))
	f.Add(message("\x35\x01\x01\x00\x00\x52\x02ab\x00\x52\x01c", "", ""))
	info := AppendDHCPRelayInfo(nil, "hall/eth1", "gw1")
	var m, n DHCP
	f.Fuzz(func(t *testing.T, b []byte) {
		if m.Parse(b) == nil {
			out := AppendDHCPRelayed(nil, b, relayAddr, info, DHCPMaxMessage)
			if err := n.Parse(out); err != nil {
				t.Fatalf("%v in what we made of\n%x:\n%x", err, b, out)
			}
			if fresh := m.GIAddr.IsUnspecified(); fresh && n.GIAddr != relayAddr || !fresh && n.GIAddr != m.GIAddr || n.Hops != m.Hops+1 || n.XID != m.XID || n.CHAddr != m.CHAddr ||
				n.Type != m.Type || n.Requested != m.Requested || !bytes.Equal(n.ClientID, m.ClientID) || len(out) < dhcpLeastMessage {
				t.Fatalf("%+v became %+v", m, n)
			}
			if fits := m.GIAddr.IsUnspecified() && m.RelayAgent == nil && len(b)+2+len(info)+1 <= DHCPMaxMessage; fits && !bytes.Equal(n.RelayAgent, info) {
				t.Fatalf("option 82 is %x", n.RelayAgent)
			}
			if _, err := dhcpv4.FromBytes(b); err == nil {
				if p, err := dhcpv4.FromBytes(out); err != nil || p.GatewayIPAddr.Equal(net.IPv4zero) {
					t.Fatalf("the library: %v, %v", p, err)
				}
			}
		}
		if m.ParseReply(b) == nil {
			out, left := AppendDHCPUnrelayed(nil, b)
			if err := n.ParseReply(out); err != nil {
				t.Fatalf("%v in what we made of\n%x:\n%x", err, b, out)
			}
			if left == len(m.RelayAgent) && n.RelayAgent != nil || n.YIAddr != m.YIAddr || n.Type != m.Type || n.ServerID != m.ServerID {
				t.Fatalf("%+v became %+v", m, n)
			}
		}
	})
}
