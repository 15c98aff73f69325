//go:build linux

package internet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/beevik/ntp"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"github.com/hotstage/hotstage/internal/testnet"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var publicResolver = netip.MustParseAddr("9.9.9.9")

// start runs the internet until the test ends and checks that Run then returns nil.
func start(t testing.TB, cfg Config) *Internet {
	t.Helper()
	in, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-in.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready after 10 s")
	}
	return in
}

// customer is a node with a static uplink to an internet.
func customer(t testing.TB) (in *Internet, node *kernel.Namespace) {
	t.Helper()
	isp, node := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, isp, "acc0", nil, node, "eth0", []string{"203.0.113.2/29", "203.0.113.99/32", "2001:db8:100::1/128"})
	route(t, node, "eth0", "0.0.0.0/0", "203.0.113.1")
	route(t, node, "eth0", "::/0", "fe80::1")
	in = start(t, Config{
		Namespace: isp, Seed: 1, Names: 200, Also: []string{"ntp.venue.example"},
		Resolvers: []netip.AddrPort{netip.AddrPortFrom(publicResolver, 53), netip.MustParseAddrPort("[2620:fe::fe]:53")},
		Access: []Access{{Device: "acc0", Uplink: plan.Uplink{
			Name: "fibre", Mode: plan.UplinkStatic, IPv6: netip.MustParsePrefix("2001:db8:100::/48"),
			IPv4:     []netip.Prefix{netip.MustParsePrefix("203.0.113.2/32"), netip.MustParsePrefix("203.0.113.99/32")},
			Address4: netip.MustParsePrefix("203.0.113.2/29"), Gateway4: netip.MustParseAddr("203.0.113.1"),
		}}},
	})
	// The way back over IPv6 is learnt once the customer's link-local address is past
	// duplicate address detection.
	if out, err := testnet.Output(node, testnet.Tools(t, "ping")[0], "-c1", "-i0.2", "-w10", "2001:2::1"); err != nil {
		t.Fatalf("IPv6 never came back: %v\n%s", err, out)
	}
	return in, node
}

func route(t testing.TB, ns *kernel.Namespace, device, to, via string) {
	t.Helper()
	testnet.Do(t, ns, func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		dst := ipNet(netip.MustParsePrefix(to))
		return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Gw: net.ParseIP(via), Flags: int(netlink.FLAG_ONLINK)})
	})
}

func dial(t testing.TB, ns *kernel.Namespace, network, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	testnet.Do(t, ns, func() (err error) {
		c, err = net.DialTimeout(network, addr, 5*time.Second)
		return err
	})
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func ask(t testing.TB, ns *kernel.Namespace, network, server, name string, kind uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	q.SetEdns0(1232, false)
	client := &dns.Client{Net: network}
	r, _, err := client.ExchangeWithConn(q, &dns.Conn{Conn: dial(t, ns, network, net.JoinHostPort(server, "53"))})
	if err != nil {
		t.Fatalf("%s for %s at %s: %v", dns.TypeToString[kind], name, server, err)
	}
	return r
}

func TestTheWorldAnswers(t *testing.T) {
	in, node := customer(t)
	name := in.Names()[0]
	for _, network := range []string{"udp", "tcp"} {
		for _, server := range []string{"9.9.9.9", "2620:fe::fe"} {
			r := ask(t, node, network, server, name, dns.TypeA)
			if r.Rcode != dns.RcodeSuccess || len(r.Answer) == 0 || !r.RecursionAvailable {
				t.Errorf("%s at %s over %s: %v", name, server, network, r)
			}
		}
	}
	r := ask(t, node, "udp", "9.9.9.9", name, dns.TypeA)
	host := r.Answer[len(r.Answer)-1].(*dns.A).A.String()
	for _, target := range []struct{ network, addr string }{
		{"udp", host + ":443"}, {"udp", host + ":7"}, {"udp", "[2001:2:0:2::5]:443"},
		{"tcp", host + ":443"}, {"tcp", host + ":80"}, {"tcp", "[2001:2:0:2::5]:7"},
	} {
		t.Run(target.network+" "+target.addr, func(t *testing.T) { echoes(t, dial(t, node, target.network, target.addr)) })
	}
	ping := testnet.Tools(t, "ping")[0]
	for _, addr := range []string{host, "2001:2:0:2::5", "198.41.0.4"} {
		if out, err := testnet.Output(node, ping, "-c1", "-w10", addr); err != nil {
			t.Errorf("ping %s: %v\n%s", addr, err, out)
		}
	}
	// The extra address is routed to the customer, not expected on the link.
	if out, err := testnet.Output(node, ping, "-c1", "-W3", "-I", "203.0.113.99", host); err != nil {
		t.Errorf("ping from the extra address: %v\n%s", err, out)
	}
	if got := in.Sources4(); len(got) != 2 && got[0].String() != "203.0.113.2" {
		t.Errorf("sources %v, want the customer's address", got)
	}
	if c := in.Counts(); c.Queries < 5 || c.Recursive < 5 || c.Datagrams != 3 || c.Connections != 3 || c.BytesIn == 0 || c.Malformed != 0 {
		t.Errorf("counts %+v", c)
	}
}

// echoes sends a line and wants it back, which also proves that it came from the address asked.
func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	const line = "anybody there?"
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
		t.Fatalf("echo %q, %v", got, err)
	}
}

func TestTimeIsServed(t *testing.T) {
	_, node := customer(t)
	r := ask(t, node, "udp", "9.9.9.9", "ntp.venue.example", dns.TypeA)
	if len(r.Answer) == 0 {
		t.Fatalf("the plan's NTP source does not exist: %v", r)
	}
	addr := r.Answer[len(r.Answer)-1].(*dns.A).A.String()
	conn := dial(t, node, "udp", addr+":123")
	answer, err := ntp.QueryWithOptions(addr, ntp.QueryOptions{Dialer: func(_, _ string) (net.Conn, error) { return conn, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Validate(); err != nil || answer.ClockOffset.Abs() > 100*time.Millisecond {
		t.Errorf("offset %v, %v", answer.ClockOffset, err)
	}
}

// TestResolvingFromTheRoot walks down as a full resolver does, with nothing but the root's
// addresses.
func TestResolvingFromTheRoot(t *testing.T) {
	in, node := customer(t)
	for _, name := range in.Names()[:40] {
		want := addresses(ask(t, node, "udp", "9.9.9.9", name, dns.TypeA))
		got, err := walk(t, node, dns.Fqdn(name), 0)
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s: from the root %v (%v), by the public resolver %v", name, got, err, want)
		}
	}
}

func walk(t *testing.T, node *kernel.Namespace, name string, depth int) ([]string, error) {
	if depth > 10 {
		return nil, fmt.Errorf("%s: too deep", name)
	}
	server := "198.41.0.4"
	for range 10 {
		r := ask(t, node, "udp", server, name, dns.TypeA)
		if r.RecursionAvailable {
			return nil, fmt.Errorf("%s at %s: recursion available", name, server)
		}
		if len(r.Answer) > 0 {
			if got := addresses(r); len(got) > 0 {
				return got, nil
			}
			return walk(t, node, r.Answer[len(r.Answer)-1].(*dns.CNAME).Target, depth+1)
		}
		if r.Rcode != dns.RcodeSuccess || r.Authoritative || len(r.Ns) == 0 {
			return nil, fmt.Errorf("%s at %s: %v", name, server, r)
		}
		ns := r.Ns[0].(*dns.NS).Ns
		server = ""
		for _, rr := range r.Extra {
			if a, ok := rr.(*dns.A); ok && a.Hdr.Name == ns {
				server = a.A.String()
			}
		}
		if server == "" {
			found, err := walk(t, node, ns, depth+1)
			if err != nil {
				return nil, err
			}
			server = found[0]
		}
	}
	return nil, fmt.Errorf("%s: no answer after 10 referrals", name)
}

func addresses(r *dns.Msg) (all []string) {
	for _, rr := range r.Answer {
		if a, ok := rr.(*dns.A); ok {
			all = append(all, a.A.String())
		}
	}
	return all
}

func TestSilenceAndCut(t *testing.T) {
	in, node := customer(t)
	if err := in.Silence(publicResolver, true); err != nil {
		t.Fatal(err)
	}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(in.Names()[0]), dns.TypeA)
	quick := &dns.Client{Timeout: 300 * time.Millisecond}
	if r, _, err := quick.ExchangeWithConn(q, &dns.Conn{Conn: dial(t, node, "udp", "9.9.9.9:53")}); err == nil {
		t.Fatalf("a silent resolver answered: %v", r)
	}
	if err := in.Silence(publicResolver, false); err != nil {
		t.Fatal(err)
	}
	ask(t, node, "udp", "9.9.9.9", in.Names()[0], dns.TypeA)
	if err := in.Silence(netip.MustParseAddr("8.8.8.8"), true); err == nil {
		t.Error("silenced a resolver that is not played")
	}

	ping := testnet.Tools(t, "ping")[0]
	for _, addr := range []string{"198.18.70.1", "2001:2::1"} {
		if out, err := testnet.Output(node, ping, "-c1", "-w10", addr); err != nil {
			t.Fatalf("before the cut: %v\n%s", err, out)
		}
	}
	if err := in.Cut(); err != nil {
		t.Fatal(err)
	}
	if out, err := testnet.Output(node, ping, "-c1", "-W1", "198.18.70.1"); err == nil {
		t.Fatalf("reached the internet through a cut: %s", out)
	}
	if err := in.Restore("acc0"); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"198.18.70.1", "2001:2::1"} {
		if out, err := testnet.Output(node, ping, "-c1", "-w10", addr); err != nil {
			t.Errorf("after the cut: %v\n%s", err, out)
		}
	}
	if err := in.Cut("acc9"); err == nil {
		t.Error("cut a link that does not exist")
	}
}

// TestUplinkByDHCP lets Debian's udhcpc take the uplink's address, as the node would.
func TestUplinkByDHCP(t *testing.T) {
	udhcpc := testnet.Tools(t, "udhcpc")[0]
	for _, c := range []struct {
		name  string
		given []netip.Prefix
		want  string
	}{
		{"any address", nil, "100.64.1.2/24"},
		{"the plan's address", []netip.Prefix{netip.MustParsePrefix("192.0.2.77/32")}, "192.0.2.77/30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			isp, node := testnet.Namespace(t), testnet.Namespace(t)
			testnet.Veth(t, isp, "acc0", nil, node, "eth0", nil)
			in := start(t, Config{
				Namespace: isp, Resolvers: []netip.AddrPort{netip.AddrPortFrom(publicResolver, 53)},
				Access: []Access{{Device: "acc0", Uplink: plan.Uplink{Name: "cable", Mode: plan.UplinkDHCP, IPv4: c.given, IPv6: netip.MustParsePrefix("2001:db8:5::/48")}}},
			})
			script := t.TempDir() + "/bound"
			text := "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add $ip/$mask dev eth0\nip route add default via $router\necho dns=$dns ip=$ip/$mask\n"
			if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
			out, err := testnet.Output(node, udhcpc, "-i", "eth0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", script)
			if err != nil || !strings.Contains(out, "dns=9.9.9.9 ip="+c.want) {
				t.Fatalf("udhcpc: %v\n%s\n%+v", err, out, in.Counts())
			}
			ask(t, node, "udp", "9.9.9.9", in.Names()[0], dns.TypeA)
			if c := in.Counts(); c.DHCP < 2 {
				t.Errorf("%d DHCP answers counted, want an offer and an acknowledgement", c.DHCP)
			}
			defaultRoute6(t, node)
		})
	}
}

// defaultRoute6 waits for the default route that a router advertisement gives.
func defaultRoute6(t *testing.T, node *kernel.Namespace) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		out, err := testnet.Output(node, "ip", "-6", "route", "show", "default")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if strings.Contains(out, "via fe80::1 ") {
			return
		}
	}
	t.Error("no default route over IPv6 after 15 s")
}

// TestStaticUplinkWithoutGateway6 plays a provider that numbers IPv4 by hand and announces
// IPv6's next hop.
func TestStaticUplinkWithoutGateway6(t *testing.T) {
	isp, node := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, isp, "acc0", nil, node, "eth0", []string{"203.0.113.2/28"})
	start(t, Config{Namespace: isp, Access: []Access{{Device: "acc0", Uplink: plan.Uplink{Name: "upstream", Mode: plan.UplinkStatic,
		Address4: netip.MustParsePrefix("203.0.113.2/28"), Gateway4: netip.MustParseAddr("203.0.113.14"), IPv6: netip.MustParsePrefix("2001:db8:53::/48")}}}})
	defaultRoute6(t, node)
}

// TestSystemUplink plays a link that the node's system set up (PPPoE, a cloud): one address,
// a default route to 100.64.0.1, and a prefix that is routed to it.
func TestSystemUplink(t *testing.T) {
	isp, node := testnet.Namespace(t), testnet.Namespace(t)
	testnet.Veth(t, isp, "acc0", nil, node, "ppp0", []string{"198.51.100.9/32"})
	testnet.Do(t, node, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("198.51.100.14/32"))})
	})
	route(t, node, "ppp0", "0.0.0.0/0", "100.64.0.1")
	start(t, Config{Namespace: isp, Access: []Access{{Device: "acc0", Uplink: plan.Uplink{
		Name: "sakura", Mode: plan.UplinkSystem, IPv4: []netip.Prefix{netip.MustParsePrefix("198.51.100.8/29")},
	}}}})
	ping := testnet.Tools(t, "ping")[0]
	for _, from := range []string{"198.51.100.9", "198.51.100.14"} { // the latter is on no link: only a routed prefix brings it back
		if out, err := testnet.Output(node, ping, "-c1", "-W3", "-I", from, "198.18.99.1"); err != nil {
			t.Errorf("from %s: %v\n%s", from, err, out)
		}
	}
}

// BenchmarkQueries asks the public resolver over a veth pair, 32 queries under way; the
// figure cpu-ns/op is the whole process, clients included.
func BenchmarkQueries(b *testing.B) {
	in, node := customer(b)
	conn := dial(b, node, "udp", "9.9.9.9:53")
	if err := conn.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	var wires [][]byte
	for _, name := range in.Names() {
		wire, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
		if err != nil {
			b.Fatal(err)
		}
		wires = append(wires, wire)
	}
	slots := make(chan struct{}, 32)
	go func() {
		buf := make([]byte, 2048)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			<-slots
		}
	}()
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		slots <- struct{}{}
		if _, err := conn.Write(wires[i%len(wires)]); err != nil {
			b.Fatal(err)
		}
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		b.Fatal(err)
	}
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}
