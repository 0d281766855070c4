package cli

import (
	"slices"
	"strings"
	"testing"
)

func TestDoctor(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	write(t, r.app.DefaultConfigFile, "cluster-domain: shop\nwrite-kubeconfig: /x/admin.yaml\n")
	r.env["LIMPET_TOKEN"] = "abcdef.veryverysecret00"
	if code := r.run("doctor", "-o", "/x/a.tar.zst", "--log", "/x/log", "-d", "/data"); code != ExitOK || r.examined == nil {
		t.Fatalf("exit %d: %s", code, &r.stderr)
	}
	e := r.examined
	if e.File != "/x/a.tar.zst" || e.LogFile != "/x/log" || e.DataDir != "/data" || e.Kubeconfig != "/x/admin.yaml" || e.Problems != nil {
		t.Errorf("%+v", e)
	}
	if !strings.Contains(e.Config, "cluster-domain: shop") || strings.Contains(e.Config, "veryverysecret") {
		t.Errorf("the configuration is %s", e.Config)
	}
	if !slices.Contains(e.Secrets, "abcdef.veryverysecret00") {
		t.Error("the token is not known to be a secret")
	}
	// A configuration that is wrong is a finding, not an end.
	r = newRun(t)
	write(t, r.app.DefaultConfigFile, "no-such-key: 1\n")
	if code := r.run("doctor"); code != ExitOK || r.examined == nil || r.examined.Problems == nil || r.examined.DataDir != "/var/lib/limpet" {
		t.Errorf("exit %d, %+v: %s", code, r.examined, &r.stderr)
	}
}
