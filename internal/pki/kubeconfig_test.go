package pki

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"k8s.io/client-go/util/keyutil"

	"k8s.io/client-go/tools/clientcmd"
)

func TestKubeconfigEmbedded(t *testing.T) {
	t.Parallel()
	auth := mustOpen(t, t.TempDir(), today)
	admin := mustEnsure(t, auth.Client, "admin", Leaf{CommonName: "system:admin"})
	spec := KubeconfigSpec{Server: "https://127.0.0.1:6443", CAFile: auth.Server.File(), Client: admin.KeyPair, Embed: true}
	data, err := Kubeconfig(spec)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != spec.Server || !bytes.Equal(cfg.CAData, auth.Server.Bundle()) || cfg.CertFile != "" || cfg.KeyFile != "" {
		t.Errorf("unexpected configuration: host %s, files %q %q", cfg.Host, cfg.CertFile, cfg.KeyFile)
	}
	if _, err := tls.X509KeyPair(cfg.CertData, cfg.KeyData); err != nil {
		t.Error(err)
	}
	if bytes.Contains(cfg.CertData, []byte("PRIVATE")) {
		t.Error("the key is in client-certificate-data")
	}
}

func TestKubeconfigByPath(t *testing.T) {
	t.Parallel()
	spec := KubeconfigSpec{Server: "https://127.0.0.1:6443", CAFile: "/x/ca.crt", Client: KeyPair{"/x/a.pem", "/x/a.pem"}, Name: "edge"}
	data, err := Kubeconfig(spec)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.Load(data)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.CurrentContext != "edge" || cfg.AuthInfos["edge"].ClientKey != "/x/a.pem" || cfg.Clusters["edge"].CertificateAuthority != "/x/ca.crt" {
		t.Errorf("got %s", data)
	}
}

func TestKubeconfigEmbedNamesMissingFile(t *testing.T) {
	t.Parallel()
	_, err := Kubeconfig(KubeconfigSpec{CAFile: "/nowhere/ca.crt", Embed: true})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/ca.crt") {
		t.Errorf("got %v", err)
	}
}

func TestWriteKubeconfig(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "etc", "limpet.yaml")
	group := strconv.Itoa(os.Getgid())
	for i, want := range []bool{true, false} {
		changed, err := WriteKubeconfig(path, []byte("x"), 0o640, group)
		if err != nil || changed != want {
			t.Errorf("write %d: changed %v, %v", i, changed, err)
		}
	}
	assertMode(t, path, 0o640)
	if _, err := WriteKubeconfig(path, []byte("y"), 0o600, "no-such-group"); err == nil || !strings.Contains(err.Error(), "no-such-group") {
		t.Errorf("unknown group: %v", err)
	}
	if string(mustRead(t, path)) != "x" {
		t.Error("the file was changed although the group is unknown")
	}
}

func TestServiceAccountKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "service-account.key")
	if err := ServiceAccountKey(path); err != nil {
		t.Fatal(err)
	}
	first := mustRead(t, path)
	if keys, err := keyutil.PublicKeysFromFile(path); err != nil || len(keys) != 1 {
		t.Fatalf("the apiserver cannot read the public key out of the file: %v", err)
	}
	if err := ServiceAccountKey(path); err != nil || !bytes.Equal(first, mustRead(t, path)) {
		t.Errorf("the key did not stay the same: %v", err)
	}
	assertMode(t, path, 0o600)
	if _, err := keyutil.PrivateKeyFromFile(path); err != nil {
		t.Error(err)
	}
	mustWrite(t, path, first[:50])
	if err := ServiceAccountKey(path); err == nil || !strings.Contains(err.Error(), path) || !bytes.Equal(first[:50], mustRead(t, path)) {
		t.Errorf("a truncated key: %v", err)
	}
}

func BenchmarkFirstStart(b *testing.B) {
	for b.Loop() {
		auth, err := Open(b.TempDir(), Options{Now: today})
		if err != nil {
			b.Fatal(err)
		}
		for i := range 15 {
			mustEnsure(b, auth.Client, "leaf-"+strconv.Itoa(i), serving())
		}
	}
}
