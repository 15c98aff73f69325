package crowd

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"sort"
	"sync"
	"syscall"
	"time"

	"github.com/hotstage/hotstage/internal/kernel"
	"github.com/hotstage/hotstage/internal/lab/crowd/frame"
)

// world is everything that the one lock guards: devices, alarms, ports and counts. Whoever
// holds the lock has set now.
type world struct {
	mu     sync.Mutex
	start  time.Time // of moment 0
	now    moment
	alarms alarms

	cfg      Config
	segments []*segment
	ports    []*port
	devices  []*device // attendees' only
	crew     []*device // one in each segment without attendees
	popular  []float64 // sums of the names' weights
	scratch  []byte    // where a frame is built
	inner    []byte    // where its payload is built

	oracle  oracle
	tally   tally
	series  series
	show    show
	probes  probing
	waiting []*wait
	over    chan struct{} // closed when the scenario is over
}

// link is the way out of a port; *kernel.Frames is one.
type link interface {
	Send(frames [][]byte) (failed int, err error)
}

// segment is one broadcast domain as its devices know it.
type segment struct {
	Segment
	holders map[[16]byte]*device // who answers for an address
}

// port is one access point: the devices that are at it, and the frames that they are about
// to send.
type port struct {
	w       *world
	segment *segment
	place   int // among the segment's ports
	open    Port
	frames  *kernel.Frames // nil before Run, and in tests that bring a link
	out     link
	members map[frame.MAC]*device
	arena   []byte
	queue   [][]byte
	packet  frame.Packet
}

const (
	arenaSize = 96 << 10 // of one port's unsent frames
	queueSize = 64
)

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, over: make(chan struct{})}
	w.oracle.leases, w.oracle.of = map[netip.Addr]*grant{}, map[*device]netip.Addr{}
	w.probes.seen = map[uint64]*probe{}
	for _, s := range cfg.Segments {
		seg := &segment{Segment: s, holders: map[[16]byte]*device{}}
		w.segments = append(w.segments, seg)
		for i, p := range s.Ports {
			w.ports = append(w.ports, &port{w: w, segment: seg, place: i, open: p, members: map[frame.MAC]*device{}})
		}
	}
	for i := range cfg.Names {
		// Zipf's law: the n-th most popular name is asked 1/n as often as the first.
		w.popular = append(w.popular, 1/float64(i+1))
		if i > 0 {
			w.popular[i] += w.popular[i-1]
		}
	}
	w.populate()
	return w
}

// populate makes the devices; everything random about them comes from the seed.
func (w *world) populate() {
	for i, s := range w.segments {
		ports := w.portsOf(s)
		n := s.Devices
		if n == 0 && len(ports) > 0 {
			d := w.newDevice(1<<20+i, ports)
			d.crew = true
			w.crew = append(w.crew, d)
		}
		for range n {
			w.devices = append(w.devices, w.newDevice(len(w.devices), ports))
		}
	}
}

func (w *world) portsOf(s *segment) (all []*port) {
	for _, p := range w.ports {
		if p.segment == s {
			all = append(all, p)
		}
	}
	return all
}

// name picks a name of the internet by Zipf's law; "" when there are none.
func (w *world) name(r *rand.Rand) string {
	if len(w.popular) == 0 {
		return ""
	}
	x := r.Float64() * w.popular[len(w.popular)-1]
	return w.cfg.Names[min(sort.SearchFloat64s(w.popular, x), len(w.popular)-1)]
}

// open opens all ports; stop closes them.
func (w *world) open() (stop func(), err error) {
	stop = func() {
		for _, p := range w.ports {
			if p.frames != nil {
				p.frames.Close()
			}
		}
	}
	for _, p := range w.ports {
		p.frames, err = kernel.OpenFrames(p.open.Namespace, p.open.Device)
		if err != nil {
			stop()
			return nil, err
		}
		p.out = p.frames
	}
	return stop, nil
}

// begin sets every device's first alarm; now is moment 0.
func (w *world) begin(now time.Time) {
	w.mu.Lock()
	w.start = now
	w.now = 0
	for _, d := range w.crew {
		d.arrive()
	}
	for _, d := range w.devices {
		w.alarms.set(&d.life.alarm, d.arrival)
	}
	w.show.begin(w)
	w.flush()
	w.mu.Unlock()
}

// lock takes the lock and sets now.
func (w *world) lock() {
	w.mu.Lock()
	w.now = max(w.now, time.Since(w.start))
}

// unlock sends what the devices have to say and gives the lock back.
func (w *world) unlock() {
	w.flush()
	w.mu.Unlock()
}

// keepTime wakes what is due until the scenario is over or ctx ends. Alarms that a frame
// has set meanwhile may be up to the longest nap late; devices' timers are far longer.
func (w *world) keepTime(ctx context.Context) {
	const shortest, longest = time.Millisecond, 5 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.over:
			return
		case <-timer.C:
		}
		w.lock()
		nap := w.wakeDue(500)
		w.unlock()
		timer.Reset(min(max(nap, shortest), longest))
	}
}

// wakeDue wakes at most n alarms that are due and says how long until the next.
func (w *world) wakeDue(n int) time.Duration {
	for range n {
		a := w.alarms.due(w.now)
		if a == nil {
			break
		}
		w.tally.lag.add(w.now - a.at)
		a.who.wake()
	}
	if len(w.alarms) == 0 {
		return time.Hour
	}
	return w.alarms[0].at - w.now
}

// read hands the frames of the port to its devices until the port is closed.
func (p *port) read() error {
	var batch [][]byte
	var err error
	for {
		batch, err = p.frames.Receive(batch)
		switch {
		case errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, syscall.ENETDOWN): // told once; the interface may come back
		case err != nil:
			return err
		}
		p.w.lock()
		for _, f := range batch {
			p.input(f)
		}
		p.w.unlock()
	}
}

// send queues a frame that it copies; to is its destination, wherever it was built for.
func (p *port) send(f []byte, to frame.MAC) {
	if len(p.queue) == queueSize || len(p.arena)+len(f) > arenaSize {
		p.flush()
	}
	if p.arena == nil {
		p.arena = make([]byte, 0, arenaSize)
	}
	start := len(p.arena)
	p.arena = append(p.arena, f...)
	copy(p.arena[start:], to[:])
	p.queue = append(p.queue, p.arena[start:])
}

func (w *world) flush() {
	for _, p := range w.ports {
		p.flush()
	}
}

func (p *port) flush() {
	if len(p.queue) == 0 {
		return
	}
	t := &p.w.tally
	t.own.Sent += uint64(len(p.queue))
	t.own.SentBytes += uint64(len(p.arena))
	failed, _ := p.out.Send(p.queue) // the error says that the port is closed: it is over
	t.own.Unsent += uint64(failed)
	p.arena, p.queue = p.arena[:0], p.queue[:0]
}
