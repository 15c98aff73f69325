//go:build linux

package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hotstage/hotstage/internal/control"
	"github.com/hotstage/hotstage/internal/kernel"
)

// Hotstage is our program with a plan.
type Hotstage struct {
	Program string // its path
	Dir     string // of the plan and of the nodes' state
	plan    string
}

// Plan writes the plan to the directory; the error is what the program has against it.
func (h *Hotstage) Plan(text string) error {
	h.plan = filepath.Join(h.Dir, "plan.yaml")
	if err := os.WriteFile(h.plan, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := h.shown()
	return err
}

// shown is what the program makes of a plan.
type shown struct {
	Nodes []struct {
		Name        string
		Attachments []struct {
			Device string
			IPv4   netip.Prefix
		}
	}
	Segments []struct {
		Name    string
		Service *struct{ IPv4 netip.Addr }
	}
}

func (h *Hotstage) shown() (s shown, err error) {
	text, err := exec.Command(h.Program, "show", h.plan, "-o", "json").CombinedOutput()
	if err != nil {
		return s, fmt.Errorf("show the plan: %w\n%s", err, text)
	}
	at := slices.Index(text, '{')
	if at < 0 {
		return s, fmt.Errorf("show the plan: %s", text)
	}
	return s, json.Unmarshal(text[at:], &s)
}

// Addr is the address that the plan gives the node on the device.
func (h *Hotstage) Addr(node, device string) (netip.Prefix, error) {
	s, err := h.shown()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, n := range s.Nodes {
		for _, a := range n.Attachments {
			if n.Name == node && a.Device == device && a.IPv4.IsValid() {
				return a.IPv4, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("the plan gives node %s no address on %s", node, device)
}

// Root gives the node's own unbound, where the plan has one, the bench's root instead of the
// internet's. That root is not signed.
func (h *Hotstage) Root(node, hints string) error {
	text, err := os.ReadFile(hints)
	if err != nil {
		return err
	}
	dir := filepath.Join(h.state(node), "unbound")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "root.hints"), text, 0o644), os.WriteFile(filepath.Join(dir, "root.key"), nil, 0o644))
}

// Service is the segment's service address for IPv4.
func (h *Hotstage) Service(segment string) (netip.Addr, error) {
	s, err := h.shown()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, g := range s.Segments {
		if g.Name == segment && g.Service != nil && g.Service.IPv4.IsValid() {
			return g.Service.IPv4, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("this program's plan has no service address for two resolvers in a segment")
}

// Start runs a node of the plan in the namespace.
func (h *Hotstage) Start(ns *kernel.Namespace, node string) (*Process, error) {
	return Start(ns, h.Dir, h.Program, "run", h.plan, "--node", node, "--state", h.state(node))
}

func (h *Hotstage) state(node string) string { return filepath.Join(h.Dir, node) }

// Metric is the sum of a running node's metrics of that name.
func (h *Hotstage) Metric(node, name string) (sum float64, err error) {
	var d net.Dialer
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", control.Socket(h.state(node)))
	}}}
	resp, err := client.Get("http://node/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' ')+1:]), 64)
			if err != nil {
				return 0, err
			}
			sum, found = sum+v, true
		}
	}
	if !found {
		return 0, fmt.Errorf("the node has no metric %s", name)
	}
	return sum, nil
}
