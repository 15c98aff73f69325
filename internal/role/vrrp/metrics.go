package vrrp

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what happens to service addresses. Make it once per process.
type Metrics struct {
	master, priority                                   *prometheus.GaugeVec
	changes, sent, heard, ignored, announced, answered *prometheus.CounterVec
	contended, failed                                  *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	labels := func(more []string) []string { return append([]string{"segment", "family"}, more...) }
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hotstage_vrrp_" + name, Help: help}, labels(more))
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hotstage_vrrp_" + name, Help: help}, labels(nil))
		reg.MustRegister(g)
		return g
	}
	return &Metrics{
		master:    gauge("master", "1 while this node has the service address. Over all nodes of a segment the sum is 1: at 0 devices ask in vain, at 2 see the event two-masters."),
		priority:  gauge("priority", "This node's priority. 100 less than usual: it cannot resolve; look at the checks of the resolver."),
		changes:   counter("changes_total", "Changes of state, by the new one. When it moves on and on, nodes do not hear each other or are too busy: look at events and at the load.", "state"),
		sent:      counter("advertisements_sent_total", "Advertisements sent. It stands still on a backup; on a master it grows by one each interval."),
		heard:     counter("advertisements_heard_total", "Advertisements of other nodes of the plan. When it stands still on a backup, the master is gone or not heard."),
		ignored:   counter("ignored_total", "Advertisements for our virtual router that were not obeyed, by why. When it moves with stranger find that machine by the event vrrp-stranger; others are broken or forged packets.", "why"),
		announced: counter("announcements_total", "Times that the link was told who has the address. It moves while this node is master."),
		answered:  counter("answers_total", "ARP requests and neighbour solicitations answered for the address. When a master's stands still, no new device asks it."),
		contended: counter("two_masters_total", "Advertisements or claims of another while this node is master. A few at a change are well; when it goes on see the event two-masters."),
		failed:    counter("send_errors_total", "Frames that the kernel refused. When it moves look at the device."),
	}
}
