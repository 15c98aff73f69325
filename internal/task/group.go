package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// State is where a task of a group stands.
type State string

// The states of a task; see the drawing at the head of the package.
const (
	Waiting  State = "waiting"  // for the tasks it comes after
	Starting State = "starting" // Run was called and Ready is not closed
	Ready    State = "ready"
	Down     State = "down" // failed; it is started again when its back-off is over
	Stopped  State = "stopped"
)

// Back-off between restarts doubles from the first to the last; a task that was ready for
// as long as the last starts again from the first.
const (
	firstBackoff = 250 * time.Millisecond
	lastBackoff  = 10 * time.Second
)

// Status is what is so with one task.
type Status struct {
	Name     string       `json:"name"`
	State    State        `json:"state"`
	Since    time.Time    `json:"since"`
	Because  string       `json:"because,omitempty"` // of Down: why
	Restarts int          `json:"restarts"`
	Checks   []fact.Check `json:"checks,omitempty"`
}

// Group runs tasks, each restarted alone. Add before Run; Status is safe at any time.
type Group struct {
	tell    func(fact.Event)
	members []*member
}

type member struct {
	name  string
	after []*member
	start func() (Task, error)
	ready chan struct{} // closed the first time the task is ready
	ended chan struct{} // closed when the member has stopped for good

	mu     sync.Mutex
	status Status
	task   Task
	once   sync.Once
}

// NewGroup makes an empty group. Events (a task is down, is back) go to tell, which must
// not block.
func NewGroup(tell func(fact.Event)) *Group { return &Group{tell: tell} }

// Add adds a task by its name. start makes it anew for each run, so that nothing of a
// failed one is left over. It is first started when those named in after have been ready
// once; names must have been added before. Tasks stop in the reverse order of Add.
func (g *Group) Add(name string, start func() (Task, error), after ...string) error {
	m := &member{name: name, start: start, ready: make(chan struct{}), ended: make(chan struct{})}
	m.status = Status{Name: name, State: Waiting, Since: time.Now()}
	for _, a := range after {
		i := -1
		for k, other := range g.members {
			if other.name == a {
				i = k
			}
		}
		if i < 0 {
			return fmt.Errorf("add task %s: it comes after %s, which was not added before", name, a)
		}
		m.after = append(m.after, g.members[i])
	}
	g.members = append(g.members, m)
	return nil
}

// Status of each task, in the order of Add.
func (g *Group) Status() []Status {
	var all []Status
	for _, m := range g.members {
		m.mu.Lock()
		s, t := m.status, m.task
		m.mu.Unlock()
		if r, ok := t.(Reporter); ok && s.State != Down && s.State != Stopped {
			s.Checks = r.Checks()
		}
		all = append(all, s)
	}
	return all
}

// Run runs all tasks until ctx ends, then stops them one by one, the last added first, each
// given up to patience to return. The error names the tasks that did not stop in time.
func (g *Group) Run(ctx context.Context, patience time.Duration) error {
	stops := make([]context.CancelFunc, len(g.members))
	for i, m := range g.members {
		var own context.Context
		own, stops[i] = context.WithCancel(context.WithoutCancel(ctx))
		go g.keep(own, m)
	}
	<-ctx.Done()
	var errs []error
	for i := len(g.members) - 1; i >= 0; i-- {
		stops[i]()
		late := time.NewTimer(patience)
		select {
		case <-g.members[i].ended:
		case <-late.C:
			errs = append(errs, fmt.Errorf("stop %s: still running after %v", g.members[i].name, patience))
		}
		late.Stop()
	}
	return errors.Join(errs...)
}

// keep runs one member until ctx ends.
func (g *Group) keep(ctx context.Context, m *member) {
	defer close(m.ended)
	defer m.set(Stopped, "")
	for _, a := range m.after {
		select {
		case <-a.ready:
		case <-ctx.Done():
			return
		}
	}
	backoff := firstBackoff
	for {
		begun := time.Now()
		err := g.once(ctx, m)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended without being told to")
		}
		if time.Since(begun) > lastBackoff {
			backoff = firstBackoff
		}
		m.set(Down, err.Error())
		g.tell(fact.Event{Time: time.Now(), Task: m.name, Kind: "task-down", Severity: fact.Alarm,
			Words: fmt.Sprintf("%s is down because: %v; it is started again in %v", m.name, err, backoff)})
		wait := time.NewTimer(backoff)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		backoff = min(2*backoff, lastBackoff)
		m.mu.Lock()
		m.status.Restarts++
		m.mu.Unlock()
	}
}

// once makes the task and runs it to its end.
func (g *Group) once(ctx context.Context, m *member) error {
	t, err := m.start()
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.task = t
	m.mu.Unlock()
	m.set(Starting, "")
	over := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-t.Ready():
			m.set(Ready, "")
			m.once.Do(func() { close(m.ready) })
			m.mu.Lock()
			again := m.status.Restarts > 0
			m.mu.Unlock()
			if again {
				g.tell(fact.Event{Time: time.Now(), Task: m.name, Kind: "task-back", Severity: fact.Info, Words: m.name + " serves again"})
			}
		case <-over:
		}
	}()
	err = t.Run(ctx)
	close(over)
	<-watched
	return err
}

func (m *member) set(s State, because string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.State, m.status.Because, m.status.Since = s, because, time.Now()
}
