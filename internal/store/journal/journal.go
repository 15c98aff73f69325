// Package journal makes a store of leases fast: each group is durable on this disk after one
// write to a file, and goes on to the store behind it a little later, in large groups.
//
//	Commit ──► append one record (O_DSYNC) ──► nil: the ACKs leave
//	                     │
//	                     └──► pending ──► Run: every 250 ms ──► book.Commit ──► the file begins anew
//
// What is in the file is in the store or will be: Open and Load bring the store up to it, so
// the death of the process or of the machine loses nothing, and order is kept. When the store
// refuses (a full disk), Commit refuses too until it works again: nothing piles up unseen.
package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/hotstage/hotstage/internal/fact"
	"golang.org/x/sys/unix"
)

// Book is the store behind the journal; store/sqlite is one.
type Book interface {
	Load(ctx context.Context) ([]fact.Lease, error)
	Commit(ctx context.Context, leases []fact.Lease) error
	Close() error
}

const (
	// fileSize is written once, so that a later record changes data alone and no metadata: the
	// disk then needs one write a group. It holds about 60,000 leases.
	fileSize = 8 << 20
	// mostBytes bounds the file while the store behind is slow; then Commit waits for it.
	mostBytes = 64 << 20
	// settleEvery is how long leases gather for the store: a lease of a hundred costs it a third
	// more than one of a thousand, and who follows the store shall be less than 1 s behind.
	settleEvery = 250 * time.Millisecond
	// settleSize is one transaction of the store.
	settleSize = 1024
	// settleFor bounds one transaction.
	settleFor = 10 * time.Second
)

// Store is an open journal before a book. Commit and Load are safe for concurrent use with Run
// and with each other.
type Store struct {
	book Book
	path string
	file *os.File

	mu         sync.Mutex // of the rest
	end        int64      // where the next record goes
	generation uint64     // of the records from the beginning of the file; begins at random, so that no old record is taken for one of it
	sequence   uint64     // of the next record in it
	buffer     []byte
	pending    []fact.Lease // in the file and not in the book yet, in order
	broken     error        // why the book did not take them
	settling   sync.Mutex   // one transaction of the book after the other
}

// Open opens the journal at path, making it when it is not there, and brings the book up to
// it. The Store closes the book; after an error the caller does. What is after the last whole
// record is of a write that was cut short and was never acknowledged.
func Open(path string, book Book) (*Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DSYNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w; the folder must exist and be writable", err)
	}
	s := &Store{book: book, path: path, file: f, generation: rand.Uint64()}
	if err := s.recover(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return s, nil
}

// recover locks the file, brings the book up to it and makes it ready for use.
func (s *Store) recover() error {
	if err := unix.Flock(int(s.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock: %w; another process uses it", err)
	}
	if err := s.replay(); err != nil {
		return err
	}
	return s.fill()
}

// replay reads the records and gives their leases to the book.
func (s *Store) replay() error {
	text, err := os.ReadFile(s.path)
	if err != nil {
		return err
	}
	for {
		r, rest, ok := readRecord(text)
		if !ok || r.sequence != s.sequence || s.sequence > 0 && r.generation != s.generation {
			break
		}
		s.generation, s.sequence = r.generation, r.sequence+1
		s.pending = append(s.pending, r.leases...)
		s.end += int64(len(text) - len(rest))
		text = rest
	}
	return s.settle(context.Background())
}

// fill makes the file as long as it will be, where the disk has room to spare: without, each
// record takes room of its own and is slower.
func (s *Store) fill() error {
	info, err := s.file.Stat()
	if err != nil || info.Size() >= fileSize {
		return err
	}
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(s.file.Fd()), &disk); err != nil {
		return fmt.Errorf("ask for room on the disk: %w", err)
	}
	if disk.Bavail*uint64(disk.Bsize) < 4*fileSize {
		return nil
	}
	zeros := make([]byte, 1<<20)
	for at := info.Size(); at < fileSize; at += int64(len(zeros)) {
		if _, err := s.file.WriteAt(zeros[:min(int64(len(zeros)), fileSize-at)], at); err != nil {
			return fmt.Errorf("make it %d MiB long: %w", fileSize>>20, err)
		}
	}
	return s.file.Sync()
}

// Commit appends the leases, in order, as one record. On nil they are on disk; after an error
// any of them may or may not be. It refuses what the book would refuse.
func (s *Store) Commit(ctx context.Context, leases []fact.Lease) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit %d leases to %s: %w", len(leases), s.path, err)
	}
	if len(leases) == 0 {
		return nil
	}
	s.mu.Lock()
	if s.broken != nil || s.end > mostBytes {
		s.mu.Unlock()
		if err := s.settle(ctx); err != nil {
			return err
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	b, err := appendRecord(s.buffer[:0], s.generation, s.sequence, leases)
	s.buffer = b
	if err != nil {
		return fmt.Errorf("commit %d leases to %s: %w", len(leases), s.path, err)
	}
	if _, err := s.file.WriteAt(b, s.end); err != nil { // the next one is written over it
		return fmt.Errorf("commit %d leases to %s: %w", len(leases), s.path, err)
	}
	s.end += int64(len(b))
	s.sequence++
	s.pending = append(s.pending, leases...)
	return nil
}

// Load brings the book up to the journal and reads it.
func (s *Store) Load(ctx context.Context) ([]fact.Lease, error) {
	if err := s.settle(ctx); err != nil {
		return nil, err
	}
	return s.book.Load(ctx)
}

// Run gives the book what the journal has, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = s.settle(ctx) // kept in broken: the next Commit says it
		}
	}
}

// settle gives the book all that is pending, and has the file begin anew when all was given.
func (s *Store) settle(ctx context.Context) error {
	s.settling.Lock()
	defer s.settling.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settleFor)
	defer cancel()
	for {
		s.mu.Lock()
		if len(s.pending) == 0 {
			err := s.begin()
			s.mu.Unlock()
			return err
		}
		group := s.pending[:min(len(s.pending), settleSize):min(len(s.pending), settleSize)]
		s.mu.Unlock()
		err := s.book.Commit(ctx, group)
		s.mu.Lock()
		s.broken = err
		if err == nil {
			s.pending = s.pending[len(group):]
		}
		s.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// begin has the next record written at the start of the file, and the old ones forgotten: what
// the book has is not to be given to it again, since whoever follows the book would take it for
// new. mu is held. When the disk refuses, the file goes on where it is, until the next time.
func (s *Store) begin() error {
	if s.end == 0 {
		return nil
	}
	if _, err := s.file.WriteAt(make([]byte, recordHead), 0); err != nil {
		return fmt.Errorf("begin %s anew: %w", s.path, err)
	}
	s.end, s.sequence = 0, 0
	s.generation++
	s.pending = nil // gives the memory of a rush back
	return nil
}

// Close gives the book what is pending and closes both. What the book does not take stays in
// the file for the next Open.
func (s *Store) Close() error {
	err := s.settle(context.Background())
	return errors.Join(err, s.file.Close(), s.book.Close())
}
