//go:build linux

package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hotstage/hotstage/internal/plan"
	"golang.org/x/sys/unix"
)

// Limits is this process's hold on limits of the host that it needs raised. Several
// processes may hold them at once; the last one puts back what was there before.
type Limits struct {
	// Raised says, one sentence each, what was raised.
	Raised []string
	// Missing has the command to type for each limit that is too low and that this process
	// may not raise.
	Missing []string

	file *os.File // nil when nothing is held
	path string
}

// limit is one parameter and the least value that is needed.
type limit struct {
	Name string
	Need int
}

// needed lists the parameters that the limits of a plan stand for.
func needed(l plan.Limits) (all []limit) {
	if l.Neighbours > 0 {
		for _, family := range []string{"ipv4", "ipv6"} {
			dir := "net/" + family + "/neigh/default/"
			all = append(all,
				// Order matters: the kernel takes any values, but collects at once what is
				// over the second one and older than 5 s, so the third comes first.
				limit{dir + "gc_thresh3", l.Neighbours},
				limit{dir + "gc_thresh2", l.Neighbours * 3 / 4},
				limit{dir + "gc_thresh1", l.Neighbours / 2})
		}
	}
	if l.Conntrack > 0 {
		all = append(all,
			limit{"net/netfilter/nf_conntrack_max", l.Conntrack},
			// Four entries a bucket: chains stay short when the table is full.
			limit{"net/netfilter/nf_conntrack_buckets", l.Conntrack / 4})
	}
	return all
}

// record is what the state file has of one parameter.
type record struct {
	Before string `json:"before"` // what was there before the first holder raised it
	Set    string `json:"set"`    // what the holders have set
}

// RaiseLimits raises the host's limits to what a plan needs, and never lowers one. The
// values before are written to stateFile first, so that what a killed process left is put
// back by the next call, or by the Restore of the last holder. Limits that this namespace
// can't see are passed over: they belong to the host. Both holders and helpers must use the
// same file on a machine; the directory is made. Call Restore in the end. When the error is
// not nil, nothing is held.
func RaiseLimits(need plan.Limits, stateFile string) (*Limits, error) {
	return raise(needed(need), stateFile)
}

func raise(all []limit, stateFile string) (*Limits, error) {
	l := &Limits{path: stateFile}
	low, err := l.tooLow(all)
	if err != nil {
		return nil, fmt.Errorf("raise limits: %w", err)
	}
	_, err = os.Stat(stateFile)
	if len(low) == 0 && err != nil {
		return l, nil // high enough, and nobody will put them back
	}
	if err := l.hold(); err != nil {
		if len(low) == 0 && errors.Is(err, fs.ErrPermission) {
			return l, nil
		}
		return nil, fmt.Errorf("raise limits: %w", err)
	}
	if err := l.raiseHeld(all); err != nil {
		return nil, errors.Join(fmt.Errorf("raise limits: %w", err), l.Restore())
	}
	return l, nil
}

// tooLow lists the limits that need raising and that we may raise; those that we may not
// go to Missing.
func (l *Limits) tooLow(all []limit) (low []limit, err error) {
	l.Missing = nil
	for _, x := range all {
		now, err := number(x.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if now >= x.Need {
			continue
		}
		if unix.Access("/proc/sys/"+x.Name, unix.W_OK) != nil || !writable(x.Name) {
			l.Missing = append(l.Missing, SysctlCommand(x.Name, strconv.Itoa(x.Need)))
			continue
		}
		low = append(low, x)
	}
	return low, nil
}

// writable tells whether the file opens for writing, which access(2) does not always know.
func writable(name string) bool {
	f, err := os.OpenFile("/proc/sys/"+name, os.O_WRONLY, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func number(name string) (int, error) {
	text, err := Sysctl(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return n, nil
}

// Bytes of the state file that locks are taken on. The locks belong to the open file, so
// the kernel gives them back however the process ends.
const (
	mutexByte  = 0 // held while the file is read and written
	holderByte = 1 // held, shared, by each process that needs the limits raised
)

// hold opens the state file and becomes one of its holders.
func (l *Limits) hold() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return fmt.Errorf("state of limits: %w", err)
	}
	for {
		f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("state of limits: %w", err)
		}
		if err := lock(f, unix.F_WRLCK, mutexByte, true); err != nil {
			f.Close()
			return fmt.Errorf("lock %s: %w", l.path, err)
		}
		if gone(f, l.path) { // the last holder removed it before we had the lock
			f.Close()
			continue
		}
		l.file = f
		return nil
	}
}

// raiseHeld does the work under the mutex, and leaves us a holder.
func (l *Limits) raiseHeld(all []limit) error {
	defer lock(l.file, unix.F_UNLCK, mutexByte, false)
	before, err := l.read()
	if err != nil {
		return err
	}
	if lock(l.file, unix.F_WRLCK, holderByte, false) == nil && len(before) > 0 {
		// Nobody holds what the file has: its holder was killed.
		if err := putBack(before); err != nil {
			return err
		}
		before = map[string]record{}
	}
	if err := lock(l.file, unix.F_RDLCK, holderByte, false); err != nil {
		return fmt.Errorf("lock %s: %w", l.path, err)
	}
	low, err := l.tooLow(all)
	if err != nil {
		return err
	}
	for _, x := range low {
		now, err := Sysctl(x.Name)
		if err != nil {
			return err
		}
		r, known := before[x.Name]
		if !known {
			r.Before = now
		}
		r.Set = strconv.Itoa(x.Need)
		before[x.Name] = r
		l.Raised = append(l.Raised, fmt.Sprintf("%s raised from %s to %s", x.Name, now, r.Set))
	}
	if err := l.write(before); err != nil {
		return err
	}
	for _, x := range low {
		if err := SetSysctl(x.Name, strconv.Itoa(x.Need)); err != nil {
			return err
		}
	}
	return nil
}

// Restore gives the hold up. The last holder puts back what was there before, but not what
// somebody else has changed since. Safe to call more than once, not concurrently.
func (l *Limits) Restore() error {
	if l.file == nil {
		return nil
	}
	f := l.file
	l.file = nil
	defer f.Close() // gives all locks back
	if err := lock(f, unix.F_WRLCK, mutexByte, true); err != nil {
		return fmt.Errorf("restore limits: lock %s: %w", l.path, err)
	}
	if err := lock(f, unix.F_WRLCK, holderByte, false); err != nil {
		return nil // others need them still
	}
	before, err := (&Limits{file: f, path: l.path}).read()
	if err != nil {
		return fmt.Errorf("restore limits: %w", err)
	}
	if err := putBack(before); err != nil {
		return fmt.Errorf("restore limits: %w", err)
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("restore limits: %w", err)
	}
	return nil
}

// putBack sets every parameter that still is as the holders set it to what it was before.
func putBack(before map[string]record) error {
	var names []string
	for name := range before {
		names = append(names, name)
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		now, err := Sysctl(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && now != before[name].Set {
			continue
		}
		if err == nil {
			err = SetSysctl(name, before[name].Before)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// read is what the file says; an empty file says nothing.
func (l *Limits) read() (map[string]record, error) {
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(l.file, 1<<16))
	if err != nil {
		return nil, err
	}
	all := map[string]record{}
	if len(text) == 0 {
		return all, nil
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; set the host's limits by hand and remove the file", l.path, err)
	}
	return all, nil
}

// write replaces what the file says, on disk before it returns. The text only grows while
// there are holders, so a write that was cut short is noticed by read.
func (l *Limits) write(all map[string]record) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if _, err := l.file.WriteAt(text, 0); err != nil {
		return err
	}
	if err := l.file.Truncate(int64(len(text))); err != nil {
		return err
	}
	return l.file.Sync()
}

// lock sets or, by F_UNLCK, gives back a lock on one byte of an open file.
func lock(f *os.File, kind int16, at int64, wait bool) error {
	op := unix.F_OFD_SETLK
	if wait {
		op = unix.F_OFD_SETLKW
	}
	for {
		err := unix.FcntlFlock(f.Fd(), op, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// gone tells whether path is no longer the open file.
func gone(f *os.File, path string) bool {
	ours, err1 := f.Stat()
	theirs, err2 := os.Stat(path)
	return err1 != nil || err2 != nil || !os.SameFile(ours, theirs)
}
