package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// child is what the test binary does as another process.
func child(role string) error {
	path := os.Getenv("HOTSTAGE_STORE")
	switch role {
	case "count":
		return count(path)
	case "rush":
		return rush(path)
	case "disk":
		return disk(path)
	}
	return fmt.Errorf("no such role %q", role)
}

func count(path string) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	defer s.Close()
	all, err := s.Load(context.Background())
	fmt.Println(len(all))
	return err
}

// rush commits until it is killed, three leases at a time, and says what was committed.
func rush(path string) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	for i := range 100000 {
		if err := s.Commit(context.Background(), some(3*i, 3)); err != nil {
			return err
		}
		fmt.Println("acked", i)
	}
	return errors.New("nobody killed me")
}

// disk runs in a mount namespace of its own.
func disk(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	path := filepath.Join(dir, "leases.db")
	s, err := Open(path)
	if err != nil {
		return err
	}
	ctx := context.Background()
	stored := 0
	for ; ; stored += 100 {
		if err = s.Commit(ctx, some(stored, 100)); err != nil {
			break
		}
		if stored > 100000 {
			return errors.New("the disk never filled up")
		}
	}
	if !strings.Contains(err.Error(), "the disk is full: df -h "+dir) {
		return fmt.Errorf("full disk: %q does not say so", err)
	}
	if err := holds(s, stored); err != nil {
		return fmt.Errorf("while full: %w", err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	if err := s.Commit(ctx, some(stored, 100)); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := holds(s, stored+100); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("remount: %w", err)
	}
	if s, err = Open(path); err == nil {
		s.Close()
		return errors.New("opened on a read-only disk")
	}
	if !strings.Contains(err.Error(), "must exist and be writable") {
		return fmt.Errorf("read-only disk: %q does not say so", err)
	}
	return nil
}

func holds(s *Store, n int) error {
	all, err := s.Load(context.Background())
	if err == nil && len(all) != n {
		err = fmt.Errorf("%d leases, want %d", len(all), n)
	}
	return err
}
