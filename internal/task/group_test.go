package task

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
)

// play is a task that becomes ready after a while, and fails some time after that unless
// life is 0.
type play struct {
	until, life time.Duration
	ready       chan struct{}
	stopped     func()
	deaf        bool
}

func (p *play) String() string         { return "play" }
func (p *play) Ready() <-chan struct{} { return p.ready }
func (p *play) Run(ctx context.Context) error {
	time.Sleep(p.until)
	close(p.ready)
	if p.life > 0 {
		select {
		case <-time.After(p.life):
			return errors.New("the disk is full")
		case <-ctx.Done():
		}
	}
	<-ctx.Done()
	if p.deaf {
		time.Sleep(time.Minute)
	}
	p.stopped()
	return nil
}

func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order, kinds []string
		starts := map[string]int{}
		g := NewGroup(func(e fact.Event) { mu.Lock(); kinds = append(kinds, e.Kind); mu.Unlock() })
		add := func(name string, until, life time.Duration, after ...string) {
			err := g.Add(name, func() (Task, error) {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, "start "+name)
				starts[name]++
				return &play{until: until, life: life, ready: make(chan struct{}), stopped: func() {
					mu.Lock()
					order = append(order, "stop "+name)
					mu.Unlock()
				}}, nil
			}, after...)
			if err != nil {
				t.Fatal(err)
			}
		}
		add("segment", time.Second, 0)
		add("dhcp", 0, 2*time.Second, "segment")
		add("ra", 0, 0, "segment")
		if err := g.Add("x", nil, "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("a task after an unknown one: %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx, time.Second) }()

		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		if s := g.Status(); s[0].State != Starting || s[1].State != Waiting {
			t.Errorf("before segment is ready: %v", s)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for _, s := range g.Status() {
			if s.State != Ready {
				t.Errorf("after segment is ready: %v", s)
			}
		}
		time.Sleep(1600 * time.Millisecond) // dhcp failed at 3 s
		synctest.Wait()
		if s := g.Status()[1]; s.State != Down || s.Because != "the disk is full" {
			t.Errorf("dhcp failed: %v", s)
		}
		time.Sleep(400 * time.Millisecond)
		synctest.Wait()
		if s := g.Status(); s[1].State != Ready || s[1].Restarts != 1 || s[0].Restarts != 0 {
			t.Errorf("dhcp is back alone: %v", s)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if want := []string{"stop ra", "stop dhcp", "stop segment"}; !slices.Equal(order[len(order)-3:], want) {
			t.Errorf("order %v, want it to end with %v", order, want)
		}
		if !slices.Equal(kinds, []string{"task-down", "task-back"}) {
			t.Errorf("events %v", kinds)
		}
		if starts["segment"] != 1 || starts["dhcp"] != 2 {
			t.Errorf("starts %v", starts)
		}
	})
}

func TestGroupDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(func(fact.Event) {})
		err := g.Add("deaf", func() (Task, error) {
			return &play{ready: make(chan struct{}), stopped: func() {}, deaf: true}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := g.Run(ctx, 3*time.Second); err == nil || !strings.Contains(err.Error(), "stop deaf: still running after 3s") {
			t.Error(err)
		}
		time.Sleep(time.Minute) // until the task has heard
	})
}

func TestGroupBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starts := 0
		g := NewGroup(func(fact.Event) {})
		if err := g.Add("broken", func() (Task, error) { starts++; return nil, errors.New("no such device") }); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := g.Run(ctx, time.Second); err != nil {
			t.Fatal(err)
		}
		// 0.25, 0.5, 1, 2, 4, 8 and then every 10 s: 11 starts in a minute.
		if starts != 11 {
			t.Errorf("%d starts in a minute", starts)
		}
	})
}
