// Command hotstage runs the network of a conference venue from one plan file.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	_ "time/tzdata" // the static binary brings its time zones along

	"github.com/alecthomas/kong"
	"golang.org/x/term"
)

// version is set by the linker.
var version = "unknown"

type cli struct {
	Check    checkVerb        `cmd:"" help:"Find every fault in a plan, with its line and a hint."`
	Init     initVerb         `cmd:"" help:"Write a commented plan to start from."`
	Import   importVerb       `cmd:"" help:"Move here from Kea: its configuration as a plan, its leases as ours."`
	Keys     keysVerb         `cmd:"" help:"Make the keys by which the event's nodes know each other."`
	Show     showVerb         `cmd:"" help:"Show what a plan comes to: segments, nodes, budget, diagram; or the plan language's schema."`
	Rehearse rehearseVerb     `cmd:"" help:"Build the whole venue on this machine, walk the attendees in, and judge."`
	Run      runVerb          `cmd:"" help:"Run this node's roles until told to stop."`
	Status   statusVerb       `cmd:"" help:"What is so on the node of this machine, first broken thing first."`
	Leases   leasesVerb       `cmd:"" help:"The leases of the node of this machine."`
	DNS      dnsVerb          `cmd:"" name:"dns" help:"The resolver of the node of this machine: who asks what, one answer, the cache."`
	Pair     pairVerb         `cmd:"" help:"How the pair of DHCP servers stands, and what you know of the other one."`
	Version  kong.VersionFlag `help:"Print the version."`
}

// errFaults says that the faults have been printed already.
var errFaults = errors.New("the plan has faults")

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main with its surroundings handed in; it returns the exit code: 0 well, 1 the plan
// or the deed failed, 2 the command line can't be used.
func run(args []string, out, errs io.Writer) int {
	var c cli
	code := -1
	p, err := kong.New(&c, kong.Name("hotstage"), kong.Vars{"version": version},
		kong.Description("Hotstage runs the network of a conference venue from one plan file."),
		kong.Writers(out, errs), kong.Exit(func(n int) { code = n }), kong.UsageOnError())
	if err != nil {
		fmt.Fprintln(errs, "hotstage:", err)
		return 2
	}
	k, err := p.Parse(args)
	if code >= 0 { // --help or --version
		return code
	}
	if err != nil {
		fmt.Fprintf(errs, "hotstage: %v\n%s\n", err, whereHelp(err))
		return 2
	}
	var own exitCode
	switch err := k.Run(&screen{out, errs}); {
	case errors.As(err, &own):
		return int(own)
	case errors.Is(err, errFaults), errors.Is(err, errBroken):
		return 1
	case err != nil:
		fmt.Fprintln(errs, "hotstage:", err)
		return 1
	}
	return 0
}

// whereHelp names the help that tells of what was wrong with the command line.
func whereHelp(err error) string {
	var wrong *kong.ParseError
	if errors.As(err, &wrong) && wrong.Context.Selected() != nil {
		return wrong.Context.Selected().FullPath() + " --help tells what it takes"
	}
	return "hotstage --help lists the commands"
}

// screen is where a verb prints.
type screen struct{ out, errs io.Writer }

// color tells whether w is a terminal that wants colours.
func color(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
}
