package agent

import (
	"io/fs"
	"testing"
)

func TestPodResolvConf(t *testing.T) {
	t.Parallel()
	const stub, real = "nameserver 127.0.0.53\noptions edns0\n", "# from DHCP\nnameserver 192.0.2.1\n"
	tests := []struct {
		name, named string
		files       map[string]string
		want        string
		fails       bool
	}{
		{"an ordinary machine", "", map[string]string{hostResolvConf: real}, hostResolvConf, false},
		{"systemd-resolved", "", map[string]string{hostResolvConf: stub, systemdResolvConf: real}, systemdResolvConf, false},
		{"a resolver of its own on loopback", "", map[string]string{hostResolvConf: stub}, hostResolvConf, false},
		{"loopback among others", "", map[string]string{hostResolvConf: stub + real, systemdResolvConf: real}, hostResolvConf, false},
		{"no name server", "", map[string]string{hostResolvConf: "search example.org\n", systemdResolvConf: real}, hostResolvConf, false},
		{"no file", "", nil, "", false},
		{"named", "/etc/pods.conf", map[string]string{"/etc/pods.conf": stub}, "/etc/pods.conf", false},
		{"named and missing", "/etc/pods.conf", map[string]string{hostResolvConf: real}, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := podResolvConf(tt.named, func(p string) ([]byte, error) {
				if content, ok := tt.files[p]; ok {
					return []byte(content), nil
				}
				return nil, fs.ErrNotExist
			})
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("podResolvConf = %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}
