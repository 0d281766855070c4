package loadbalancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// maxServers bounds what the cluster may tell us to connect to.
const maxServers = 16

// kept is the file's content.
type kept struct {
	Servers []string `json:"servers"`
}

// load reads the list that save wrote; none is no error.
func load(file string) ([]string, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read server list: %w", err)
	}
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("read server list %s: %w", file, err)
	}
	return sanitize(k.Servers), nil
}

// save writes the list unless it is there already.
func save(file string, servers []string) error {
	if file == "" {
		return nil
	}
	data, err := json.Marshal(kept{Servers: servers})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("create directory of server list: %w", err)
	}
	_, err = atomicfile.WriteIfChanged(file, append(data, '\n'), 0o600)
	return err
}

// sanitize leaves out what is no address, what is there twice, and what is too much.
func sanitize(addrs []string) []string {
	var list []string
	for _, addr := range addrs {
		if checkAddress(addr) == nil && !slices.Contains(list, addr) && len(list) < maxServers {
			list = append(list, addr)
		}
	}
	return list
}

// checkAddress accepts "host:port" with a host and a port that one can connect to.
func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host == "" {
		return errors.New("has no host")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port", port)
	}
	return nil
}
