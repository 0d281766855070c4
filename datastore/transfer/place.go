package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// place is a file in the making: in a directory of its own, beside where it
// goes, so that whatever else a database needs is there too and goes with it.
type place struct {
	path    string
	tmp     string // directory
	replace bool
	limpet  bool   // path is a datastore of Limpet, which may be using it
	unlock  func() // nil while it is not locked
}

// beside prepares to make the file at path.
func beside(path string, replace, limpet bool) (_ *place, err error) {
	p := &place{replace: replace, limpet: limpet}
	if p.path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	if limpet && exists(p.path+".lock") { // it may be in use: do not work in vain
		if err := p.lock(); err != nil {
			return nil, err
		}
	}
	if err := p.makeDir(); err != nil {
		p.discard()
		return nil, err
	}
	return p, nil
}

func (p *place) makeDir() (err error) {
	p.tmp, err = os.MkdirTemp(filepath.Dir(p.path), "."+filepath.Base(p.path)+".new-*") // 0700
	if err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	return nil
}

// restart forgets what was written so far.
func (p *place) restart() error {
	if err := os.RemoveAll(p.tmp); err != nil {
		return err
	}
	return p.makeDir()
}

// file is where to write.
func (p *place) file() string { return filepath.Join(p.tmp, filepath.Base(p.path)) }

// parts are the files of a SQLite database that hold some of it.
func parts() []string { return []string{"", "-wal", "-journal"} }

// check refuses what must not be replaced.
func (p *place) check() error {
	for _, part := range parts() {
		name := p.path + part
		info, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			return fmt.Errorf("%w: %s is not a regular file; choose another destination", ErrExists, name)
		case !p.replace:
			return fmt.Errorf("%w: %s; choose another, or have it replaced (it is kept under another name)", ErrExists, name)
		}
	}
	return nil
}

func (p *place) lock() (err error) {
	if p.unlock == nil {
		p.unlock, err = sqlog.Lock(p.path)
	}
	if errors.Is(err, sqlog.ErrInUse) {
		err = fmt.Errorf("%w; stop limpet first", err)
	}
	return err
}

// commit puts the finished file in its place, and tells where the former one is.
func (p *place) commit() (kept string, err error) {
	if p.limpet {
		if err := p.lock(); err != nil {
			return "", err
		}
	}
	if err := p.check(); err != nil {
		return "", err
	}
	if err := os.Chmod(p.file(), 0o600); err != nil {
		return "", err
	}
	if err := syncPath(p.file()); err != nil {
		return "", err
	}
	kept, err = p.keep()
	if err != nil {
		return "", fmt.Errorf("keep the former %s: %w", p.path, err)
	}
	if p.limpet {
		err = p.replaceDatabase()
	} else {
		err = p.replaceFile()
	}
	if err != nil {
		return "", err
	}
	return kept, syncPath(filepath.Dir(p.path))
}

// replaceDatabase leaves it to sqlog, which can be cut off. What that puts aside
// has another name already, under which nobody deletes it.
func (p *place) replaceDatabase() error {
	if err := os.Rename(p.file(), sqlog.Incoming(p.path)); err != nil {
		return err
	}
	aside, err := sqlog.Replace(p.path, time.Now())
	if err != nil || aside == "" {
		return err
	}
	for _, part := range append(parts(), "-shm") {
		if err := os.Remove(aside + part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// replaceFile removes what would be taken for a part of the new file first.
func (p *place) replaceFile() error {
	for _, part := range append(parts()[1:], "-shm") {
		if err := os.Remove(p.path + part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(p.file(), p.path)
}

// keep gives what is at the destination another name beside its own. At no
// moment is there less than a whole database under one of them.
func (p *place) keep() (string, error) {
	name := p.path + ".kept-" + time.Now().UTC().Format("20060102T150405Z")
	for n := 2; exists(name); n++ {
		name = strings.TrimSuffix(name, "-"+strconv.Itoa(n-1)) + "-" + strconv.Itoa(n)
	}
	var linked []string
	for _, part := range parts() {
		switch err := os.Link(p.path+part, name+part); {
		case err == nil:
			linked = append(linked, name+part)
		case !errors.Is(err, fs.ErrNotExist):
			for _, l := range linked {
				_ = os.Remove(l)
			}
			return "", err
		}
	}
	if linked == nil {
		return "", nil
	}
	return name, syncPath(filepath.Dir(p.path))
}

// discard removes what was not committed. It may be called after commit.
func (p *place) discard() {
	if p.tmp != "" {
		_ = os.RemoveAll(p.tmp)
	}
	if p.unlock != nil {
		p.unlock()
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
