package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/fact"
	"github.com/hotstage/hotstage/internal/role/resolver"
)

type dnsVerb struct {
	Top    dnsTopVerb    `cmd:"" help:"Which names are asked for most, and which clients ask most."`
	Flush  dnsFlushVerb  `cmd:"" help:"Drop cached answers: of a name and all below it, or all."`
	Lookup dnsLookupVerb `cmd:"" help:"Ask as an attendee would, and see where the answer comes from."`
	Log    dnsLogVerb    `cmd:"" help:"The last queries of the sample that the plan has logged."`
}

type dnsTopVerb struct {
	Names   bool   `xor:"what" help:"Only names."`
	Clients bool   `xor:"what" help:"Only clients."`
	N       int    `short:"n" name:"number" default:"20" help:"How many of each, up to 1000."`
	State   string `default:"/var/lib/hotstage" type:"path" help:"The node's state directory."`
	Output  string `short:"o" enum:"text,json" default:"text" help:"text or json."`
}

// mostTop is as many as the resolver counts.
const mostTop = 1000

// Help is shown by hotstage dns top --help.
func (*dnsTopVerb) Help() string {
	return `Of the last minutes: a query counts half as much a minute later. At a high rate one query in N is
counted, N times. What has less than a thousandth of all may be missing or overstated by as much.

Examples: hotstage dns top; hotstage dns top --clients -n 5; hotstage dns top -o json`
}

// Run asks the node and prints what it says.
func (v *dnsTopVerb) Run(s *screen) error {
	if v.N < 1 || v.N > mostTop {
		return fmt.Errorf("dns top: -n %d is not a number of lines; allowed: 1 to %d", v.N, mostTop)
	}
	ctx, stop := context.WithTimeout(context.Background(), askTimeout)
	defer stop()
	var top resolver.Top
	if err := fetch(ctx, v.State, "dns/top?n="+strconv.Itoa(v.N), &top); err != nil {
		return fmt.Errorf("dns top: %w", err)
	}
	if v.Clients {
		top.Names = nil
	}
	if v.Names {
		top.Clients = nil
	}
	if v.Output == "json" {
		return encode(s.out, top)
	}
	return v.print(s.out, top)
}

func (v *dnsTopVerb) print(out io.Writer, top resolver.Top) error {
	counted := "each query counted"
	if top.OneIn > 1 {
		counted = fmt.Sprintf("one query in %d counted", top.OneIn)
	}
	fmt.Fprintf(out, "about %.1f queries/s in the last minutes, %s\n", top.PerSecond, counted)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if !v.Clients {
		fmt.Fprintln(w, "\nQUERIES/S\tSHARE\tTYPE\tNAME")
		for _, a := range top.Names {
			fmt.Fprintf(w, "%.1f\t%.1f%%\t%s\t%s\n", a.PerSecond, 100*a.Share, a.Type, a.Name)
		}
	}
	if !v.Names {
		fmt.Fprintln(w, "\nQUERIES/S\tSHARE\tCLIENT\tDEVICE")
		for _, a := range top.Clients {
			fmt.Fprintf(w, "%.1f\t%.1f%%\t%s\t%s\n", a.PerSecond, 100*a.Share, a.Client, a.Device)
		}
	}
	return w.Flush()
}

type dnsFlushVerb struct {
	Name  string `arg:"" optional:"" help:"The name; what is below it goes too."`
	All   bool   `help:"Every answer."`
	State string `default:"/var/lib/hotstage" type:"path" help:"The node's state directory."`
}

// Help is shown by hotstage dns flush --help.
func (*dnsFlushVerb) Help() string {
	return `Drops answers of all types from this node's cache; each resolver that it asks has a cache of its own.
All answers at once means that every name is asked for again: in the opening rush flush names.

Examples: hotstage dns flush example.com; hotstage dns flush --all`
}

// Run has the node drop answers and says how many there were.
func (v *dnsFlushVerb) Run(s *screen) error {
	name := v.Name
	switch {
	case v.All && name != "":
		return fmt.Errorf("dns flush: %s and --all at once; give one of them", name)
	case v.All:
		name = "."
	case name == "":
		return errors.New("dns flush: which name? hotstage dns flush NAME, or --all for every answer")
	case name == ".":
		return errors.New("dns flush: all names are below the root; say --all when you mean that")
	}
	if _, _, err := resolver.CheckQuestion(name, "A"); err != nil {
		return fmt.Errorf("dns flush: %w", err)
	}
	ctx, stop := context.WithTimeout(context.Background(), askTimeout)
	defer stop()
	var dropped int
	if err := order(ctx, v.State, "dns/flush?"+url.Values{"name": {name}}.Encode(), &dropped); err != nil {
		return fmt.Errorf("dns flush: %w", err)
	}
	of := "for " + name + " and below"
	if v.All {
		of = "for all names"
	}
	if dropped == 1 {
		fmt.Fprintf(s.out, "1 answer %s dropped\n", of)
		return nil
	}
	fmt.Fprintf(s.out, "%d answers %s dropped\n", dropped, of)
	return nil
}

type dnsLookupVerb struct {
	Name   string `arg:"" help:"A name, or an address for its name."`
	Type   string `arg:"" optional:"" help:"Type of record; default: A, of an address PTR."`
	State  string `default:"/var/lib/hotstage" type:"path" help:"The node's state directory."`
	Output string `short:"o" enum:"text,json" default:"text" help:"text or json."`
}

// Help is shown by hotstage dns lookup --help.
func (*dnsLookupVerb) Help() string {
	return `The question goes the way of an attendee's, within the node: no address in a segment is needed, and the
answer is cached for attendees. Exit 1 when there is no answer (SERVFAIL, REFUSED).

Examples: hotstage dns lookup www.example.org; hotstage dns lookup gw1.yapc.example AAAA; hotstage dns lookup 10.53.0.80`
}

// Run asks the node, and prints the answer and where it came from.
func (v *dnsLookupVerb) Run(s *screen) error {
	if _, _, err := resolver.CheckQuestion(v.Name, v.Type); err != nil {
		return fmt.Errorf("dns lookup: %w", err)
	}
	ctx, stop := context.WithTimeout(context.Background(), askTimeout)
	defer stop()
	var found resolver.Found
	if err := fetch(ctx, v.State, "dns/lookup?"+url.Values{"name": {v.Name}, "type": {v.Type}}.Encode(), &found); err != nil {
		return fmt.Errorf("dns lookup: %w", err)
	}
	var err error
	if v.Output == "json" {
		err = encode(s.out, found)
	} else {
		printFound(s.out, found)
	}
	if err == nil && found.Rcode != "NOERROR" && found.Rcode != "NXDOMAIN" {
		return errBroken
	}
	return err
}

func printFound(out io.Writer, f resolver.Found) {
	fmt.Fprintf(out, "%s %s: %s %s, %s\n", f.Name, f.Type, f.Rcode, strings.Join(f.Flags, " "), whence(f))
	for _, r := range f.Reasons {
		fmt.Fprintf(out, "because: %s (extended error %d) %s\n", r.Name, r.Code, r.Text)
	}
	for _, r := range f.Answer {
		fmt.Fprintln(out, "  "+r)
	}
	for _, r := range f.Authority {
		fmt.Fprintln(out, "  authority: "+r)
	}
}

// whence says where an answer came from in words.
func whence(f resolver.Found) string {
	second := func(d time.Duration) time.Duration { return d.Round(time.Second) }
	switch f.From {
	case resolver.FromCache:
		return fmt.Sprintf("from the cache, %v old, kept %v more", second(f.Age), second(f.Left))
	case resolver.FromStale:
		return fmt.Sprintf("an expired answer, %v old: nobody who could know has answered", second(f.Age))
	case resolver.FromBlock:
		return "blocked by the plan"
	case resolver.FromAsked:
		return fmt.Sprintf("asked for, %v", f.Took.Round(100*time.Microsecond))
	}
	return "by this node itself"
}

type dnsLogVerb struct {
	Find   string `arg:"" optional:"" help:"A client's address, or a name; what is below it is shown too."`
	N      int    `short:"n" name:"number" default:"50" help:"How many, up to 100000."`
	State  string `default:"/var/lib/hotstage" type:"path" help:"The node's state directory."`
	Output string `short:"o" enum:"text,json" default:"text" help:"text or json."`
}

// mostLogged bounds one answer of the log; it is about 15 MB.
const mostLogged = 100_000

// Help is shown by hotstage dns log --help.
func (*dnsLogVerb) Help() string {
	return `The plan says which share of the queries is kept: resolver: {log: 10%}; by default none is. It says who
asked for what: show it to nobody who need not know, and turn it off when the fault is found.

Examples: hotstage dns log; hotstage dns log 10.53.0.80 -n 20; hotstage dns log example.com -o json`
}

// Run prints the last queries, the newest last.
func (v *dnsLogVerb) Run(s *screen) error {
	if v.N < 1 || v.N > mostLogged {
		return fmt.Errorf("dns log: -n %d is not a number of lines; allowed: 1 to %d", v.N, mostLogged)
	}
	ctx, stop := context.WithTimeout(context.Background(), askTimeout)
	defer stop()
	var all []fact.Query
	if err := fetch(ctx, v.State, "dns/log?"+url.Values{"n": {strconv.Itoa(v.N)}, "find": {v.Find}}.Encode(), &all); err != nil {
		return fmt.Errorf("dns log: %w", err)
	}
	if v.Output == "json" {
		return encode(s.out, all)
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tCLIENT\tTYPE\tNAME\tANSWER\tFROM\tTOOK")
	for _, q := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%v\n", q.Time.Local().Format("01-02 15:04:05.000"), q.Client, q.Type, q.Name, q.Rcode, q.From, q.Took.Round(100*time.Microsecond))
	}
	return w.Flush()
}

// order is fetch for a deed.
func order(ctx context.Context, state, what string, dst any) error {
	return reachable(control.Order(ctx, state, what, dst), state)
}

// reachable says what to do when no node could be asked.
func reachable(err error, state string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no node runs with state directory %s; start one: hotstage run PLAN --node NAME, or say where it is: --state DIR", state)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the node with state directory %s is another user's: ask as that user, mostly root", state)
	}
	return err
}

// dnsHandlers are the control socket's part of the resolver.
func (n *node) dnsHandlers(mux *http.ServeMux) {
	on := func(pattern string, f func(*resolver.Server, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			s := n.resolver.Load()
			if s == nil {
				http.Error(w, "this node runs no resolver, or not yet: hotstage status", http.StatusNotFound)
				return
			}
			x, err := f(s, r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(x)
		})
	}
	on("GET /dns/top", func(s *resolver.Server, r *http.Request) (any, error) {
		lines, err := strconv.Atoi(r.FormValue("n"))
		return s.Top(min(lines, mostTop)), err
	})
	on("GET /dns/log", func(_ *resolver.Server, r *http.Request) (any, error) {
		lines, err := strconv.Atoi(r.FormValue("n"))
		if err != nil {
			return nil, err
		}
		if n.queries == nil {
			return nil, errors.New("this node logs no queries; the plan turns it on: resolver: {log: 10%}")
		}
		return n.queries.Last(r.Context(), min(lines, mostLogged), r.FormValue("find"))
	})
	on("POST /dns/flush", func(s *resolver.Server, r *http.Request) (any, error) { return s.Flush(r.FormValue("name")) })
	on("GET /dns/lookup", func(s *resolver.Server, r *http.Request) (any, error) {
		name, typ, err := resolver.CheckQuestion(r.FormValue("name"), r.FormValue("type"))
		if err != nil {
			return nil, err
		}
		return s.Lookup(r.Context(), name, typ)
	})
}
