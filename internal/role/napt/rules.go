//go:build linux

package napt

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

// tableName is the nftables table that is ours, whole.
const tableName = "hotstage_napt"

// translated is the named counter of flows that were given an address.
const translated = "translated"

// question is how long a flow of one question and one answer, DNS or NTP, is remembered. No
// client waits longer for an answer (resolv.conf(5): 5 s), and at a short timer such flows,
// which are half of all, take little of the table. RFC 4787 REQ-5a allows a timer of its own
// to a well-known port.
const question = 10 * time.Second

// questions are the ports of DNS and NTP.
var questions = [...]uint16{53, 123}

// table has the timers of forwarded flows, of both families since they share the kernel's
// table, and the translation of IPv4. Of the node's own flows, which leave under its own
// address, only questions are ours; others keep the system's timers.
func (c Config) table(icmp bool) *kernel.Table {
	t := &kernel.Table{
		Name:     tableName,
		Counters: []string{translated},
		Sets: []kernel.Set{
			{Name: "segments", Kind: kernel.SetLinks, Links: c.Segments},
			{Name: "inside", Kind: kernel.SetIP4, IP4: c.Inside},
			{Name: "questions", Kind: kernel.SetPorts, Ports: questions[:]},
		},
		Timers: c.timers(icmp),
	}
	timing := kernel.Chain{Name: "timing", Hook: nftables.ChainHookForward, Priority: *nftables.ChainPriorityMangle - 1}
	own := kernel.Chain{Name: "timing_own", Hook: nftables.ChainHookOutput, Priority: *nftables.ChainPriorityMangle - 1}
	for _, timer := range t.Timers {
		match := slices.Concat(kernel.New(), kernel.Family(family(timer.IPv6)), kernel.Protocol(timer.Protocol))
		if timer.Name == questionTimer(timer.IPv6) { // after the other of UDP: the last one stays
			match = slices.Concat(match, kernel.ToPorts(unix.IPPROTO_UDP, "questions"))
			own.Rules = append(own.Rules, kernel.R("timers of "+timer.Name, match, kernel.Timed(timer.Name)))
		}
		timing.Rules = append(timing.Rules, kernel.R("timers of "+timer.Name, kernel.FromLinks("segments", true), match, kernel.Timed(timer.Name)))
	}
	exit := kernel.Chain{Name: "exit", Hook: nftables.ChainHookPostrouting, Priority: *nftables.ChainPriorityNATSource, NAT: true}
	t.Chains = []kernel.Chain{exit, timing, own}
	for _, e := range c.Exits {
		name := "exit_" + e.Uplink
		t.Chains[0].Rules = append(t.Chains[0].Rules, kernel.R("out by "+e.Uplink, kernel.ToLink(e.Device), kernel.From4("inside"), kernel.Counted(translated), kernel.Jump(name)))
		t.Chains = append(t.Chains, kernel.Chain{Name: name, Rules: e.rules()})
	}
	return t
}

func family(six bool) byte {
	if six {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func questionTimer(six bool) string {
	if six {
		return "question6"
	}
	return "question4"
}

// rules spread the sources over the addresses: each range gets its share of the sources, and
// the kernel spreads them within the range.
func (e Exit) rules() (rules []kernel.Rule) {
	if len(e.Ranges) == 0 {
		return []kernel.Rule{kernel.R("under the link's own address", kernel.Masquerade())}
	}
	all, sum := e.size(), 0
	for i, r := range e.Ranges {
		sum += r.Size()
		var share []expr.Any
		if i < len(e.Ranges)-1 {
			share = kernel.Share(sum, all)
		}
		words := fmt.Sprintf("%d of %d addresses", r.Size(), all)
		rules = append(rules,
			kernel.R(words+", UDP", kernel.Protocol(unix.IPPROTO_UDP), share, kernel.TranslateTo(r.From, r.To, true)),
			kernel.R(words+", TCP", kernel.Protocol(unix.IPPROTO_TCP), share, kernel.TranslateTo(r.From, r.To, true)),
			kernel.R(words+", others", share, kernel.TranslateTo(r.From, r.To, false)))
	}
	return rules
}

// timers are ct timeout objects of both families; icmp says whether the kernel has them for
// ICMP too.
func (c Config) timers(icmp bool) (all []kernel.Timer) {
	t := c.Timeouts
	transitory := kernel.Seconds(t.TCPTransitory)
	tcp := map[uint16]uint32{}
	for state := uint16(expr.CtStateTCPSYNSENT); state <= expr.CtStateTCPUNACK; state++ {
		tcp[state] = transitory
	}
	tcp[expr.CtStateTCPESTABLISHED] = kernel.Seconds(t.TCPEstablished)
	tcp[expr.CtStateTCPTIMEWAIT] = kernel.Seconds(t.TCPClosed)
	tcp[expr.CtStateTCPCLOSE] = kernel.Seconds(t.TCPClosed)
	udp := map[uint16]uint32{
		// The kernel takes a flow for a stream when it is answered and older than 2 s: a
		// question and its answer stay on the first timer.
		expr.CtStateUDPUNREPLIED: kernel.Seconds(t.UDP),
		expr.CtStateUDPREPLIED:   kernel.Seconds(t.UDPStream),
	}
	short := kernel.Seconds(min(question, t.UDP))
	asked := map[uint16]uint32{expr.CtStateUDPUNREPLIED: short, expr.CtStateUDPREPLIED: short}
	ping := map[uint16]uint32{0: kernel.Seconds(t.ICMP)}
	for _, six := range []bool{false, true} {
		version, control := "4", uint8(unix.IPPROTO_ICMP)
		if six {
			version, control = "6", unix.IPPROTO_ICMPV6
		}
		all = append(all,
			kernel.Timer{Name: "udp" + version, IPv6: six, Protocol: unix.IPPROTO_UDP, States: udp},
			kernel.Timer{Name: questionTimer(six), IPv6: six, Protocol: unix.IPPROTO_UDP, States: asked},
			kernel.Timer{Name: "tcp" + version, IPv6: six, Protocol: unix.IPPROTO_TCP, States: tcp})
		if icmp {
			all = append(all, kernel.Timer{Name: "icmp" + version, IPv6: six, Protocol: control, States: ping})
		}
	}
	return all
}

// routes keep packets to addresses of the exit that no flow has from going back out by the
// default route, and in again, until their TTL ends. Addresses that a link has need none.
func (c Config) routes(local func(netip.Addr) bool) (all []kernel.Route) {
	for _, e := range c.Exits {
		for _, r := range e.Ranges {
			all = append(all, unreachable(r, local)...)
		}
	}
	return all
}

func unreachable(r plan.Range, local func(netip.Addr) bool) (all []kernel.Route) {
	for a := r.From; r.Contains(a); a = a.Next() {
		if !local(a) {
			all = append(all, kernel.Route{To: netip.PrefixFrom(a, 32), Unreachable: true})
		}
	}
	return all
}
