package resolver

import (
	"github.com/hotstage/hotstage/internal/role/resolver/unbound"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the resolver does. Make it once per process.
type Metrics struct {
	udp, tcp                        prometheus.Counter
	hits, own, asked, stale, failed prometheus.Counter
	before, flood                   prometheus.Counter // of XDP
	passed                          *prometheus.CounterVec
	beforeAnswers                   prometheus.Gauge
	blocked, logWritten, logLost    prometheus.Counter
	malformed, foreign, limited     prometheus.Counter
	dropped, refused, busy          prometheus.Counter
	cacheEntries, cacheBytes        prometheus.Gauge
	waiting, connections            prometheus.Gauge
	latency                         prometheus.Histogram
	dot, doh, doq                   prometheus.Counter
	secureConnections, expiry       prometheus.Gauge
	handshakes                      *prometheus.CounterVec
	upstream                        *prometheus.CounterVec
	rtt                             *prometheus.HistogramVec
	up                              *prometheus.GaugeVec
	spared, renewed                 prometheus.Counter
	unbound                         *unbound.Metrics
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	vec := func(name, help, label string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotstage_resolver_" + name, Help: help}, []string{label})
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "hotstage_resolver_" + name, Help: help})
		reg.MustRegister(g)
		return g
	}
	queries := vec("queries_total", "Queries from clients, by transport: dot is TLS, doh HTTPS, doq QUIC. Much TCP means truncated answers: look at the drops.", "by")
	answers := vec("answers_total", "Answers to clients, by where they came from. Many of stale or failed: look at the resolvers asked and at the uplink.", "from")
	drops := vec("refused_total", "Queries not answered or refused, by why. client-rate: one device asks too much, find it; foreign: somebody outside the segments asks, look at the filters; busy: the resolvers asked are slow; flood: dropped before the socket, one device asks four times too much.", "why")
	log := vec("logged_total", "Queries of the sample for the log, by what came of them. lost: the disk is full or slow; answers do not wait for it.", "result")
	buckets := []float64{.001, .002, .005, .01, .02, .05, .1, .2, .4, .8, 1.6, 3.2, 5}
	m := &Metrics{
		udp: queries.WithLabelValues("udp"), tcp: queries.WithLabelValues("tcp"),
		dot: queries.WithLabelValues("dot"), doh: queries.WithLabelValues("doh"), doq: queries.WithLabelValues("doq"),
		secureConnections: gauge("encrypted_connections", "Connections of clients by TLS, HTTPS and QUIC. Near 8192 somebody holds connections open: look at who."),
		expiry:            gauge("certificate_expires_seconds", "Unix time at which the certificate of encrypted DNS ends; 0 without one. Less than a week away: put a new one in its place, no restart is needed."),
		before:            answers.WithLabelValues("xdp"), hits: answers.WithLabelValues("cache"), own: answers.WithLabelValues("own"), blocked: answers.WithLabelValues("block"), asked: answers.WithLabelValues("asked"),
		stale: answers.WithLabelValues("stale"), failed: answers.WithLabelValues("failed"),
		malformed: drops.WithLabelValues("malformed"), foreign: drops.WithLabelValues("foreign"), limited: drops.WithLabelValues("client-rate-truncated"),
		dropped: drops.WithLabelValues("client-rate"), refused: drops.WithLabelValues("refused"), busy: drops.WithLabelValues("busy"), flood: drops.WithLabelValues("flood"),
		logWritten: log.WithLabelValues("written"), logLost: log.WithLabelValues("lost"),
		passed:        vec("xdp_passed_total", "Queries that XDP left to the socket, by why. Many cold: names are asked in no pattern; asleep: the process was stopped or starved; room: the driver leaves no room for the answer.", "why"),
		beforeAnswers: gauge("xdp_answers", "Answers that wait before the socket. At 0 with XDP on, nothing is asked often, or see the check resolver-xdp of hotstage status."),
		cacheEntries:  gauge("cache_answers", "Answers in the cache. It falls to 0 when the resolver is started anew."),
		cacheBytes:    gauge("cache_bytes", "Bytes that the cache takes. At its limit with few hits give resolver.cache more."),
		waiting:       gauge("waiting_questions", "Questions for which an answer is awaited from outside. In the hundreds: the resolvers asked are slow or the uplink is full."),
		connections:   gauge("tcp_connections", "TCP connections of clients. Near 1024 somebody holds connections open: look at who."),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "hotstage_resolver_asking_seconds", Buckets: buckets,
			Help: "Time until a question was answered from outside. When it grows look at the round trip of each resolver asked."}),
		upstream: vec2("upstream_questions_total", "Questions to each resolver asked, by what came of them. failed: it did not answer; case: it changed the case of letters, somebody may forge answers."),
		rtt: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "hotstage_resolver_upstream_seconds", Buckets: buckets,
			Help: "Round trip to each resolver asked. When it grows for all, the uplink is full."}, []string{"resolver"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hotstage_resolver_upstream_up",
			Help: "1 when the resolver asked is well. At 0 for all, look at the uplink; for one, give the plan another."}, []string{"resolver"}),
	}
	m.handshakes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotstage_resolver_handshakes_total",
		Help: "Connections by TLS, HTTPS and QUIC, by what became of them. failed: clients do not like the certificate, or speak something else; refused: one client opens too many, find it."}, []string{"by", "result"})
	background := vec("background_total", "What went on beside the answers. renewed: much asked answers asked for anew before they ran out; spared: second questions not asked because the resolvers are slow but at work: with many of them look at the round trip of each resolver asked.", "what")
	m.renewed, m.spared = background.WithLabelValues("renewed"), background.WithLabelValues("spared")
	m.unbound = unbound.NewMetrics(reg)
	reg.MustRegister(m.latency, m.upstream, m.rtt, m.up, m.handshakes)
	return m
}

func vec2(name, help string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotstage_resolver_" + name, Help: help}, []string{"resolver", "result"})
}
