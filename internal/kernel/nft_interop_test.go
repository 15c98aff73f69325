//go:build linux

package kernel_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/hotstage/hotstage/internal/golden"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/testnet"
	"golang.org/x/sys/unix"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// everything is a table with one of each part.
func everything() *kernel.Table {
	r := kernel.R
	return &kernel.Table{
		Name:     "hotstage_test",
		Counters: []string{"dropped"},
		Timers: []kernel.Timer{
			{Name: "udp4", Protocol: unix.IPPROTO_UDP, States: map[uint16]uint32{expr.CtStateUDPUNREPLIED: 31, expr.CtStateUDPREPLIED: 32}},
			{Name: "udp6", IPv6: true, Protocol: unix.IPPROTO_UDP, States: map[uint16]uint32{expr.CtStateUDPUNREPLIED: 33, expr.CtStateUDPREPLIED: 34}},
		},
		Sets: []kernel.Set{
			{Name: "links", Kind: kernel.SetLinks, Links: []string{"eth1.101", "br7", "br7"}},
			{Name: "nets4", Kind: kernel.SetIP4, IP4: prefixes("10.1.0.0/24", "10.0.0.0/24", "10.1.1.0/24", "10.1.0.128/25", "192.0.2.7/32", "240.0.0.0/4")},
			{Name: "nets6", Kind: kernel.SetIP6, IP6: prefixes("2001:db8:1::/64", "2001:db8::/64", "2001:db8:5::1/128")},
			{Name: "none", Kind: kernel.SetIP6},
			{Name: "ports", Kind: kernel.SetPorts, Ports: []uint16{123, 53}},
			{Name: "types", Kind: kernel.SetTypes, Types: []uint8{135, 128}},
		},
		Chains: []kernel.Chain{
			{Name: "filter", Hook: nftables.ChainHookForward, Priority: 0, Rules: []kernel.Rule{
				r("known flows", kernel.Known(), kernel.Accept()),
				r("invalid", kernel.Invalid(), kernel.Counted("dropped"), kernel.Drop()),
				r("links", kernel.FromLinks("links", true), kernel.ToLinks("links", false), kernel.Jump("deeper")),
				r("one link", kernel.FromLink("eth0"), kernel.ToLink("eth1"), kernel.Drop()),
				r("clamp", kernel.ClampMSS()),
				r("timers", kernel.New(), kernel.Family(unix.NFPROTO_IPV4), kernel.Protocol(unix.IPPROTO_UDP), kernel.Timed("udp4")),
			}},
			{Name: "deeper", Rules: []kernel.Rule{
				r("to nets", kernel.To4("nets4"), kernel.ToPorts(unix.IPPROTO_UDP, "ports"), kernel.Accept()),
				r("to nets, IPv6", kernel.To6("nets6"), kernel.ToPort(unix.IPPROTO_TCP, 53), kernel.Accept()),
				r("ping", kernel.Type4(8), kernel.Accept()),
				r("neighbours", kernel.Types6("types"), kernel.Accept()),
				r("spoofed", kernel.NotFrom(netip.MustParsePrefix("10.16.0.0/19")), kernel.Drop()),
				r("spoofed, IPv6", kernel.NotFrom(netip.MustParsePrefix("2001:db8:7::/64")), kernel.Drop()),
			}},
			{Name: "exit", Hook: nftables.ChainHookPostrouting, Priority: 100, NAT: true, Rules: []kernel.Rule{
				r("range", kernel.Protocol(unix.IPPROTO_UDP), kernel.From4("nets4"), kernel.TranslateTo(netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.4"), true)),
				r("share", kernel.Share(2, 5), kernel.TranslateTo(netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.1"), false)),
				r("link's own", kernel.Masquerade()),
			}},
		},
	}
}

// nft reads what we wrote, as a person would, and takes it back in.
func TestTableAsNFTShowsIt(t *testing.T) {
	nft := testnet.Tools(t, "nft")[0]
	ns := testnet.Namespace(t)
	testnet.Do(t, ns, everything().Write)
	out, err := testnet.Output(ns, nft, "list", "ruleset")
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	golden.Compare(t, "table.nft", []byte(out))
	file := filepath.Join(t.TempDir(), "table.nft")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := testnet.Output(testnet.Namespace(t), nft, "-f", file); err != nil {
		t.Errorf("nft does not take in what it listed: %v\n%s", err, out)
	}
}

func TestTableDrift(t *testing.T) {
	nft := testnet.Tools(t, "nft")[0]
	ns := testnet.Namespace(t)
	drift := func() (words string) {
		t.Helper()
		testnet.Do(t, ns, func() (err error) {
			words, err = everything().Drift()
			return err
		})
		return words
	}
	if got := drift(); got != "it is missing" {
		t.Errorf("without a table: %q", got)
	}
	for _, c := range []struct{ command, want string }{
		{"", ""},
		{"flush chain inet hotstage_test deeper", "chain deeper has 0 rules instead of 6"},
		{"add rule inet hotstage_test exit accept", "chain exit has 4 rules instead of 3"},
		{"insert rule inet hotstage_test filter accept; delete rule inet hotstage_test filter handle H", `chain filter has another rule in place of "known flows"`},
		{"delete element inet hotstage_test links { br7 }", "set links has other elements"},
		{"add element inet hotstage_test nets6 { 2001:db8:77::/64 }", "set nets6 has other elements"},
		{"add chain inet hotstage_test mine", "chain mine is not ours"},
		{"add chain inet hotstage_test filter { policy drop; }", "chain filter is at another hook or has another policy"},
		{"delete table inet hotstage_test", "it is missing"},
	} {
		testnet.Do(t, ns, everything().Write)
		if c.command != "" {
			command := strings.ReplaceAll(c.command, "handle H", "handle "+handle(t, ns, nft, "known flows"))
			if out, err := testnet.Output(ns, nft, command); err != nil {
				t.Fatalf("nft %s: %v\n%s", command, err, out)
			}
		}
		if got := drift(); got != c.want {
			t.Errorf("after %q: %q, want %q", c.command, got, c.want)
		}
	}
}

func handle(t *testing.T, ns *kernel.Namespace, nft, comment string) string {
	t.Helper()
	out, err := testnet.Output(ns, nft, "-a", "list", "ruleset")
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	for line := range strings.Lines(out) {
		if _, h, ok := strings.Cut(line, "# handle "); ok && strings.Contains(line, comment) {
			return strings.TrimSpace(h)
		}
	}
	t.Fatalf("no rule %q in\n%s", comment, out)
	return ""
}

func TestCountersOutliveARewriting(t *testing.T) {
	nft := testnet.Tools(t, "nft")[0]
	ns := testnet.Namespace(t)
	if out, err := testnet.Output(ns, nft, "add table inet hotstage_test; add counter inet hotstage_test dropped { packets 7 bytes 700 }"); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	testnet.Do(t, ns, func() error {
		if err := everything().Write(); err != nil {
			return err
		}
		got, err := kernel.Counts("hotstage_test")
		if want := (kernel.Count{Packets: 7, Bytes: 700}); got["dropped"] != want {
			t.Errorf("counter is %+v, want %+v", got["dropped"], want)
		}
		return err
	})
}
