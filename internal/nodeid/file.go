package nodeid

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// DefaultFile is where a machine keeps its identity key: beside the
// configuration and not in the data directory, since it has to outlive that.
const DefaultFile = "/etc/limpet/node/identity.key"

// Load reads the key from path; fs.ErrNotExist if there is none.
func Load(path string) (Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read node identity key: %w", err)
	}
	key, err := Parse(data)
	if err != nil {
		return Key{}, fmt.Errorf("node identity key %s: %w", path, err)
	}
	return key, nil
}

// LoadOrGenerate reads the key from path, or makes one that is nowhere kept yet
// (fresh) if there is none. A file that is damaged is an error and stays as it
// is: to replace it would give up the node's name.
func LoadOrGenerate(path string) (key Key, fresh bool, err error) {
	key, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	key, err = Generate()
	return key, true, err
}

// Save keeps the key at path: 0600, its directory 0700.
func (k Key) Save(path string) error {
	data, err := k.Marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create directory of the node identity key: %w", err)
	}
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return fmt.Errorf("keep node identity key: %w", err)
	}
	return nil
}
