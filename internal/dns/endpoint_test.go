package dns

import (
	"reflect"
	"strings"
	"testing"
)

func TestEndpoint(t *testing.T) {
	t.Parallel()
	e := endpointAt(addrs("127.0.0.1", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "2001:db8::1"), 10053, 9153)
	want := `{"addresses":["192.0.2.1","2001:db8::1"],"port":10053,"metricsPort":9153}`
	if got := e.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	back, err := ParseEndpoint(want)
	if err != nil || !reflect.DeepEqual(back, e) {
		t.Errorf("read back %+v, %v", back, err)
	}
	if got := endpointAt(addrs("127.0.0.1"), 10053, 0).String(); got != "" {
		t.Errorf("loopback alone is published: %s", got)
	}
}

func TestParseEndpointRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty":          ``,
		"no JSON":        `192.0.2.1:53`,
		"no port":        `{"addresses":["192.0.2.1"]}`,
		"port too large": `{"addresses":["192.0.2.1"],"port":65536}`,
		"negative port":  `{"addresses":["192.0.2.1"],"port":-1}`,
		"no address":     `{"addresses":[],"port":53}`,
		"empty address":  `{"addresses":[""],"port":53}`,
		"loopback":       `{"addresses":["192.0.2.1","127.0.0.1"],"port":53}`,
		"link-local":     `{"addresses":["fe80::1"],"port":53}`,
		"zone":           `{"addresses":["2001:db8::1%eth0"],"port":53}`,
		"multicast":      `{"addresses":["224.0.0.1"],"port":53}`,
		"mapped":         `{"addresses":["::ffff:192.0.2.1"],"port":53}`,
		"any":            `{"addresses":["0.0.0.0"],"port":53}`,
		"a name":         `{"addresses":["example.org"],"port":53}`,
		"too many":       `{"addresses":["` + strings.Repeat(`192.0.2.1","`, 8) + `192.0.2.1"],"port":53}`,
		"trailing":       `{"addresses":["192.0.2.1"],"port":53} {}`,
		"too long":       `{"addresses":["192.0.2.1"],"port":53}` + strings.Repeat(" ", maxAnnotation),
	} {
		if e, err := ParseEndpoint(text); err == nil {
			t.Errorf("%s: accepted as %+v", name, e)
		}
	}
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add(`{"addresses":["192.0.2.1","2001:db8::1"],"port":10053,"metricsPort":9153}`)
	f.Add(`{"addresses":["127.0.0.1"],"port":0}`)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseEndpoint(text)
		if err != nil {
			return
		}
		for _, a := range e.Addresses {
			if !reachable(a) {
				t.Errorf("%q gives %s", text, a)
			}
		}
		back, err := ParseEndpoint(e.String())
		if err != nil || !reflect.DeepEqual(back, e) {
			t.Errorf("%q: read back %+v, %v", text, back, err)
		}
	})
}
