package dhcp

import (
	"time"

	"github.com/hotstage/hotstage/internal/wire"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the role's counters. They are made once in a process and outlive a server
// that is made anew. Safe for concurrent use.
type Metrics struct {
	messages [len(typeWords)]prometheus.Counter
	states   map[string]prometheus.Counter
	replies  [len(typeWords)]prometheus.Counter
	silences [silences]prometheus.Counter
	commits  prometheus.Histogram
	rows     prometheus.Histogram
	failures prometheus.Counter
	grants   prometheus.Histogram
	pool     *prometheus.GaugeVec
	queue    prometheus.Gauge
	rogues   *prometheus.CounterVec
	modes    *prometheus.GaugeVec
	shared   *prometheus.CounterVec
	contrary prometheus.Counter
}

var typeWords = [...]string{
	0: "malformed", wire.DHCPDiscover: "discover", wire.DHCPOffer: "offer", wire.DHCPRequest: "request",
	wire.DHCPDecline: "decline", wire.DHCPAck: "ack", wire.DHCPNak: "nak", wire.DHCPRelease: "release", wire.DHCPInform: "inform",
}

// NewMetrics registers the role's metrics at reg, which must not have them yet.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	messages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hotstage_dhcp_messages_total",
		Help: "DHCP messages received, by type. Many discovers and few requests: clients do not hear the offers, or a flood; look at the segment's access points. Declines: somebody uses a pool address by hand.",
	}, []string{"type"})
	states := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hotstage_dhcp_requests_total",
		Help: "DHCPREQUEST messages by the client's state (RFC 2131 section 4.3.2). Many rebinding: the server that gave the leases is not heard; look at that node.",
	}, []string{"state"})
	replies := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hotstage_dhcp_replies_total",
		Help: "DHCP replies sent, by type. Many naks: devices come from another network, or the plan's pools were changed.",
	}, []string{"type"})
	silent := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hotstage_dhcp_silent_total",
		Help: "DHCP messages without a reply, by reason. pool-full: shorten the lease or widen the prefix; store-down, queue-full, too-late: look at the disk; too-many: one device floods; too-many also: one port of a relay floods, see the event relay-port-flood; relayed: a relay that the plan does not name under relays of its segment, or somebody who poses as one; astray: of a segment that this node does not serve, or under a false address; watch: another node of ours looks for rogue servers, which is as it should be.",
	}, []string{"reason"})
	m := &Metrics{
		states: map[string]prometheus.Counter{},
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hotstage_dhcp_commit_seconds",
			Help:    "Time to write one group of leases to disk. Over 0.05 s clients wait visibly: look at the disk and at who else writes to it.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2.5, 12),
		}),
		rows: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hotstage_dhcp_commit_leases",
			Help:    "Leases per commit. It grows with the rush; always at 256 means that the disk is the limit.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256},
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hotstage_dhcp_commit_failures_total",
			Help: "Commits that failed. Any: no client gets an address meanwhile; look at the event lease-store-failed.",
		}),
		grants: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hotstage_dhcp_grant_seconds",
			Help:    "From the arrival of a DHCPREQUEST to its ACK on the wire. Over 0.05 s: compare with hotstage_dhcp_commit_seconds, then look at the CPU.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2.5, 12),
		}),
		pool: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hotstage_dhcp_pool_addresses",
			Help: "Addresses of this node's part of the pool, by segment and state. bound over 95 % of all: shorten the lease or widen the prefix before it is full. Many offered: a flood of DISCOVERs.",
		}, []string{"segment", "state"}),
		queue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hotstage_dhcp_queue_leases",
			Help: "Leases that wait for the disk. Near 8192 messages are dropped: look at the disk.",
		}),
	}
	m.rogues = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hotstage_dhcp_rogue_replies_total",
		Help: "Messages heard of DHCP servers that the plan does not have, by segment. Any: devices get a wrong network; find the server by the event rogue-dhcp and shut its port; turn DHCP snooping on.",
	}, []string{"segment"})
	m.modes = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hotstage_dhcp_pair_mode",
		Help: "1 for how the pair of DHCP servers stands: waiting, normal, alone, sole. Other than normal for longer than a restart: look at the partner, see doc/dhcp.md.",
	}, []string{"mode"})
	m.shared = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hotstage_dhcp_pair_rows_total",
		Help: "Leases told to the partner and learnt from it. Learnt grows with its clients; one that stands still while clients come: look at the event pair-alone.",
	}, []string{"direction"})
	m.contrary = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "hotstage_dhcp_pair_contrary_total",
		Help: "Addresses that both servers of the pair have given. Any: a server was told to be sole while its partner served; look at the event pair-contrary.",
	})
	reg.MustRegister(m.modes, m.shared, m.contrary)
	reg.MustRegister(messages, states, replies, silent, m.commits, m.rows, m.failures, m.grants, m.pool, m.queue, m.rogues)
	for i, w := range typeWords {
		m.messages[i], m.replies[i] = messages.WithLabelValues(w), replies.WithLabelValues(w)
	}
	for i, w := range silenceWords {
		if silence(i) != replied {
			m.silences[i] = silent.WithLabelValues(w)
		}
	}
	for _, s := range []string{"selecting", "init-reboot", "renewing", "rebinding"} {
		m.states[s] = states.WithLabelValues(s)
	}
	return m
}

// answered counts one handled message.
func (m *Metrics) answered(a *answer) {
	kind := int(a.kind)
	if kind >= len(typeWords) {
		kind = 0
	}
	m.messages[kind].Inc()
	if c := m.states[a.state]; c != nil {
		c.Inc()
	}
	if a.why != replied {
		m.silent(a.why)
	}
}

func (m *Metrics) silent(why silence) { m.silences[why].Inc() }

func (m *Metrics) sent(t wire.DHCPType) { m.replies[t].Inc() }

func (m *Metrics) rogue(segment string) { m.rogues.WithLabelValues(segment).Inc() }

func (m *Metrics) granted(d time.Duration) { m.grants.Observe(d.Seconds()) }

func (m *Metrics) commit(d time.Duration, rows int, err error) {
	if err != nil {
		m.failures.Inc()
		return
	}
	m.commits.Observe(d.Seconds())
	m.rows.Observe(float64(rows))
}

func (m *Metrics) told(rows int) { m.shared.WithLabelValues("told").Add(float64(rows)) }

func (m *Metrics) learnt(rows int) { m.shared.WithLabelValues("learnt").Add(float64(rows)) }

func (m *Metrics) contradicted() { m.contrary.Inc() }

// stands says which mode the pair is in.
func (m *Metrics) stands(now mode) {
	for i, w := range modeWords {
		if mode(i) != unpaired {
			m.modes.WithLabelValues(w).Set(float64(btoi(mode(i) == now)))
		}
	}
}
