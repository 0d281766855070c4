package transfer

import (
	"bytes"
	"testing"
)

func FuzzEtcdRevision(f *testing.F) {
	f.Add(etcdRevision(7, 3))
	f.Add(append(etcdRevision(1<<40, 0), tombstone))
	f.Add([]byte("_"))
	f.Fuzz(func(t *testing.T, b []byte) {
		main, sub, deleted, err := parseEtcdRevision(b)
		if err != nil {
			return
		}
		again := etcdRevision(main, sub)
		if deleted {
			again = append(again, tombstone)
		}
		if main < 0 || sub < 0 || !bytes.Equal(again, b) {
			t.Errorf("%x is %d, %d, %v", b, main, sub, deleted)
		}
	})
}

func FuzzVersion(f *testing.F) {
	f.Add([]byte("7|123"))
	f.Add([]byte("7"))
	f.Add([]byte("|"))
	f.Fuzz(func(t *testing.T, b []byte) {
		version, value, ok := splitVersion(b)
		if !ok {
			return
		}
		v, again, ok := splitVersion(joinVersion(version, value))
		if !ok || v != version || version <= 0 || !bytes.Equal(again, value) {
			t.Errorf("%q is %d, %q; and that is %d, %q", b, version, value, v, again)
		}
	})
}
