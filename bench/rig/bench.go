//go:build linux

package rig

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Bench is what every program of bench has.
type Bench struct {
	Ctx      context.Context // ends with the signals that end the program
	Dir      string          // for its files; servers that give up root can read them, and it goes with the program
	Hotstage string          // our program
	Trials   int             // how often each is measured, 1 at least
	Report   Report
	parts    []string
}

// Part is one thing that a program measures.
type Part struct {
	Name string
	Run  func() error
}

// Flags are those of every program of bench. Make them with NewFlags before flag.Parse.
type Flags struct {
	hotstage, parts, file *string
	trials                *int
}

// NewFlags registers the flags; parts are measured unless the command line says otherwise.
func NewFlags(parts string) *Flags {
	return &Flags{
		hotstage: flag.String("hotstage", "bin/hotstage", "our program"),
		trials:   flag.Int("trials", 3, "how often each is measured"),
		parts:    flag.String("part", parts, "what is measured, in this order"),
		file:     flag.String("json", "", "file that gets every trial and goal as JSON"),
	}
}

// Main runs the program named bench-NAME in a session of its own (see First), and leaves
// nothing behind but its report. It exits when measure fails.
func (f *Flags) Main(name string, measure func(*Bench) error) {
	if code, again := First(); again {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &Bench{Ctx: ctx, Trials: max(*f.trials, 1), parts: strings.Split(*f.parts, ",")}
	err := f.within(b, name, measure)
	Sweep()
	if err2 := b.Report.Write(*f.file); err == nil {
		err = err2
	}
	if err != nil {
		log.Fatal(err)
	}
}

// within measures in a directory of its own.
func (f *Flags) within(b *Bench, name string, measure func(*Bench) error) (err error) {
	if b.Hotstage, err = filepath.Abs(*f.hotstage); err != nil {
		return err
	}
	if b.Dir, err = os.MkdirTemp("", "bench-"+name); err != nil {
		return err
	}
	defer os.RemoveAll(b.Dir)
	if err := os.Chmod(b.Dir, 0o755); err != nil {
		return err
	}
	return measure(b)
}

// Measure runs the parts that the command line names, in its order, below a line that says
// what is measured.
func (b *Bench) Measure(versions string, known ...Part) error {
	fmt.Printf("%s · %s · figures: median (least-most) of %d\n", time.Now().UTC().Format("2006-01-02"), versions, b.Trials)
	for _, name := range b.parts {
		run, allowed := (func() error)(nil), make([]string, len(known))
		for i, p := range known {
			if allowed[i] = p.Name; p.Name == name {
				run = p.Run
			}
		}
		if run == nil {
			return fmt.Errorf("no part %q; allowed: %s", name, strings.Join(allowed, ", "))
		}
		if err := run(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// Say tells on the side how far the run is.
func (b *Bench) Say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// Each runs f for every system in turn, as often as there are trials.
func (b *Bench) Each(part string, systems []string, f func(sys string, n int) error) error {
	for n := range b.Trials {
		for _, sys := range systems {
			b.Say("%s, trial %d: %s", part, n+1, sys)
			if err := f(sys, n); err != nil {
				return fmt.Errorf("%s: %w", sys, err)
			}
		}
	}
	return nil
}

// FirstLine is the first line that a program prints, in which most say their version.
func FirstLine(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
