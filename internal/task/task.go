// Package task says how things start, become ready, are restarted and stop.
//
//	          make, Run                 Ready closed
//	waiting ───────────► starting ───────────────────► ready
//	   ▲                    │                            │
//	   │ back-off over      │ Run returned               │ Run returned
//	   └────────────── down ◄────────────────────────────┘
//
// A task that fails is restarted alone, with back-off; the others go on.
package task

import (
	"context"

	"github.com/hotstage/hotstage/internal/fact"
)

// Task is something that runs until it is told to stop. Goroutines start only in Run and
// are gone when it returns. Run returns nil or ctx's error after ctx ends, and any other
// error when the task cannot go on. Ready is closed once the task serves.
type Task interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
	String() string
}

// Reporter is a task that can say what is so within it, worst first. Checks must return
// at once and be safe for concurrent use; they are called while Run is running.
type Reporter interface {
	Checks() []fact.Check
}

// Change is one difference between the plan and the world, and the deed that removes it.
// Words is a sentence without a full stop, such as "add 10.1.0.1/20 to eth1.101".
type Change struct {
	Words string
	Do    func(ctx context.Context) error
}
