package resolver

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/role/resolver/xdp"
)

const (
	hotAnswers = xdp.MaxSize
	hotBeat    = 100 * time.Millisecond
	hotAlive   = 3 * hotBeat // a process that is paused or hangs answers for so long
	hotFill    = 2           // beats between two fillings: what the cache drops is answered for so long
	hotTend    = 10          // beats between two looks at the interfaces
	hotLeast   = time.Second // of validity left, else it is not worth the while
)

// demand knows what is asked most, and is told of what it could not see.
type demand interface {
	names(n int) []hot
	add(k *key, weight uint64)
}

// front keeps the hottest answers of the cache before the socket.
//
//	demand ─ hottest ─► front ─ copies of the cache's answers ─► xdp ─► clients
//	   ▲                  │
//	   └──────── hits ◄───┘
//
// What the cache has replaced, flushed or evicted leaves within hotFill beats. One goroutine
// runs it; checks may be called from any.
type front struct {
	cfg    Config
	cache  *cache
	local  *local
	demand demand
	m      *Metrics
	event  func(fact.Severity, string, string)
	in     func(func() error) error // the namespace of the interfaces

	program *xdp.Program
	kept    map[string]*copied // by key: what is there, or was refused
	counted xdp.Counts

	mu    sync.Mutex
	ports []xdp.Port
	off   string // why there is nothing, "" when there is
}

// copied is an answer before the socket.
type copied struct {
	of    *entry
	asked time.Time // when it was last
}

// run answers until ctx ends. What it cannot do is told once, and the socket serves.
func (f *front) run(ctx context.Context) {
	program, err := xdp.Load(xdp.Config{
		Size: hotAnswers, Rate: f.cfg.Rate, Burst: time.Duration(math.Round(burstTime * 1e9)),
		Clients: append(slices.Clone(f.cfg.Clients), netip.MustParsePrefix("fe80::/10")),
	})
	if err != nil {
		f.fail(err)
		return
	}
	f.program, f.kept = program, map[string]*copied{}
	defer func() {
		if err := program.Close(); err != nil {
			f.event(fact.Warning, "xdp-failed", err.Error())
		}
	}()
	if err := f.loop(ctx); err != nil {
		f.fail(err)
	}
}

// fail says why there is nothing.
func (f *front) fail(err error) {
	f.mu.Lock()
	f.off, f.ports = err.Error(), nil
	f.mu.Unlock()
	f.event(fact.Warning, "xdp-off", "no answers before the socket, which serves all: "+err.Error()+"; or say resolver: {xdp: off}")
}

// loop beats, fills and tends.
func (f *front) loop(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var changed <-chan struct{}
	err := f.in(func() (err error) {
		changed, err = kernel.Watch(ctx)
		return err
	})
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		for range changed { // Watch has ended when it is closed
		}
	}()
	tick := time.NewTicker(hotBeat)
	defer tick.Stop()
	for beat := 0; ; {
		if err := f.step(beat); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			beat++
		case _, ok := <-changed:
			if !ok {
				return nil
			}
			beat = 0 // look at once: an address may be another node's now
		}
	}
}

// step does what is due at a beat.
func (f *front) step(beat int) error {
	if beat%hotTend == 0 {
		if err := f.tend(); err != nil {
			return err
		}
	}
	if beat%hotFill == 0 {
		if err := f.fill(time.Now()); err != nil {
			return err
		}
	}
	return f.program.Beat(hotAlive)
}

// tend looks at the interfaces and the addresses, and says what has changed.
func (f *front) tend() error {
	var ports []xdp.Port
	err := f.in(func() error {
		ports = f.program.Tend(f.cfg.Devices)
		return nil
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	before := f.ports
	f.ports = ports
	f.mu.Unlock()
	for i, p := range ports {
		if i < len(before) && before[i].Mode == p.Mode {
			continue
		}
		words := "hot answers leave by XDP on " + portWords(p)
		if p.Mode == xdp.Off {
			words = "no answers before the socket on " + portWords(p)
		}
		f.event(fact.Info, "xdp-"+string(p.Mode), words)
	}
	return f.serve()
}

func portWords(p xdp.Port) string {
	if p.Why == "" {
		return fmt.Sprintf("%s (%s)", p.Device, p.Mode)
	}
	return fmt.Sprintf("%s (%s: %s)", p.Device, p.Mode, p.Why)
}

// serve lets those addresses be answered at that we listen on and that this node has now:
// sockets may be bound to others, but no packet for them comes to a socket.
func (f *front) serve() error {
	var has []netip.Addr
	err := f.in(func() error {
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil && slices.Contains(f.cfg.Listen, p.Addr()) {
				has = append(has, p.Addr())
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	return f.program.Serve(has)
}

// fill makes what is before the socket what the cache has: what was there or is hot.
func (f *front) fill(now time.Time) error {
	if err := f.count(now); err != nil {
		return err
	}
	for name, old := range f.kept {
		var k key
		k.n = copy(k.buf[:], name)
		if e := f.cache.peek(&k); e == old.of && now.Before(f.until(e)) {
			continue
		}
		if err := f.program.Remove(f.answer(old.of)); err != nil {
			return err
		}
		delete(f.kept, name)
		if err := f.put(&k, now); err != nil { // it was hot: a new answer takes the place
			return err
		}
	}
	hottest := f.demand.names(hotAnswers)
	news := 0
	for _, h := range hottest {
		if f.kept[string(h.key.bytes())] == nil {
			news++
		}
	}
	if err := f.thin(len(f.kept) + news - hotAnswers); err != nil {
		return err
	}
	for _, h := range hottest {
		if err := f.put(&h.key, now); err != nil {
			return err
		}
	}
	return nil
}

// thin makes room for n: what was not asked for the longest time goes.
func (f *front) thin(n int) error {
	if n <= 0 {
		return nil
	}
	names := slices.SortedFunc(maps.Keys(f.kept), func(a, b string) int { return f.kept[a].asked.Compare(f.kept[b].asked) })
	n = max(n, len(names)/16) // sorting costs more than a few answers too few
	for _, name := range names[:min(n, len(names))] {
		if err := f.program.Remove(f.answer(f.kept[name].of)); err != nil {
			return err
		}
		delete(f.kept, name)
	}
	return nil
}

// put puts the answer to a question before the socket when it has a place there.
func (f *front) put(k *key, now time.Time) error {
	if f.kept[string(k.bytes())] != nil {
		return nil
	}
	e := f.cache.peek(k)
	if e == nil || !e.good() || e.ttl <= 0 || f.until(e).Sub(now) < hotLeast || f.local.has(k.name()) {
		return nil
	}
	switch err := f.program.Put(e.key, f.answer(e)); {
	case errors.Is(err, xdp.ErrFull):
		return nil
	case err == nil, errors.Is(err, xdp.ErrUnfit):
		f.kept[e.key] = &copied{e, now}
		return nil
	default:
		return err
	}
}

// until is when the socket gets an answer's queries back: it then asks anew, see due.
func (f *front) until(e *entry) time.Time { return e.stored.Add(e.ttl - e.ttl/renewPart) }

// answer is an entry as xdp takes it.
func (f *front) answer(e *entry) xdp.Answer {
	var k key
	k.n = copy(k.buf[:], e.key)
	q := askOf(&k)
	a := xdp.Answer{Name: q.name, Type: q.typ, DO: q.do, CD: q.cd, Message: e.msg, Stored: e.stored, Until: f.until(e)}
	for _, at := range e.ttls {
		a.TTLs = append(a.TTLs, int(at))
	}
	return a
}

// count tells the demand, the cache and the metrics of what was answered meanwhile.
func (f *front) count(now time.Time) error {
	err := f.program.Hits(func(name string, n uint64) {
		var k key
		k.n = copy(k.buf[:], name)
		f.demand.add(&k, n)
		if c := f.kept[name]; c != nil {
			c.asked = now
		}
		if e := f.cache.peek(&k); e != nil {
			e.uses.Store(3)
		}
	})
	if err != nil {
		return err
	}
	c, err := f.program.Counts()
	if err != nil {
		return err
	}
	f.m.before.Add(float64(c.Answered - f.counted.Answered))
	f.m.udp.Add(float64(c.Answered + c.Dropped - f.counted.Answered - f.counted.Dropped))
	f.m.flood.Add(float64(c.Dropped - f.counted.Dropped))
	for why, n := range c.Passed {
		f.m.passed.WithLabelValues(why).Add(float64(n - f.counted.Passed[why]))
	}
	f.m.beforeAnswers.Set(float64(len(f.kept)))
	f.counted = c
	return nil
}

// check says where hot answers leave before the socket, and why not elsewhere. That they do
// not is no fault: the socket answers.
func (f *front) check() fact.Check {
	c := fact.Check{Name: "resolver-xdp", Words: "hot answers leave before the socket", OK: true, Measured: "on no interface yet"}
	if f == nil {
		c.Measured = "off by the plan: resolver.xdp, or resolver.log, which would not see them"
		return c
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off != "" {
		c.Measured = "off, the socket answers: " + f.off
		return c
	}
	var words []string
	for _, p := range f.ports {
		words = append(words, portWords(p))
	}
	if len(words) > 0 {
		c.Measured = strings.Join(words, ", ")
	}
	return c
}

// peek is the entry of the key, without taking it for asked.
func (c *cache) peek(k *key) *entry {
	hash := maphash.Bytes(c.seed, k.bytes())
	return c.shards[hash%shardCount].entries.find(hash, k.bytes())
}

// has tells whether the name is answered here, never from the cache.
func (l *local) has(name []byte) bool {
	_, host := l.hosts[string(name)]
	return host || l.find(name) != nil || l.blocked(name) != nil
}
