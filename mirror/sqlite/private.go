package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// private is the mode of the file and of those that SQLite makes beside it, which get
// that of the file: customers' balances are nobody else's to read.
const private fs.FileMode = 0o600

// creating lets one store of this process at a time make files. Closing a file drops
// every lock that the process has on it, so it must not be closed while another store of
// the process has it open.
var creating sync.Mutex

// create makes the file where there is none. SQLite would give it the mode that the
// process' mask allows, which mostly lets everybody read it.
func create(path string) error {
	creating.Lock()
	defer creating.Unlock()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err // it is there; or SQLite reports the error better
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, private) // #nosec G304 -- the operator's database
	if errors.Is(err, fs.ErrExist) {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is a dangling link: create the file it names, or choose another path", path)
		}
		return nil // another process was faster
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// Loose lists those of the mirror's files at path that others than their owner may read
// or write.
func Loose(path string) []string {
	var list []string
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if info, err := os.Stat(path + suffix); err == nil && info.Mode().Perm()&^private != 0 {
			list = append(list, path+suffix)
		}
	}
	return list
}
