package doctor

import (
	"encoding/base64"
	"strings"
	"testing"
)

const keyPEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIHNlY3JldHNlY3JldHNlY3JldHNlY3JldHNlY3Jl\n-----END EC PRIVATE KEY-----"

func TestRedact(t *testing.T) {
	t.Parallel()
	encodedKey := base64.StdEncoding.EncodeToString([]byte(keyPEM))
	r := NewRedactor("correct horse battery")
	for _, c := range []struct{ name, text, secret string }{
		{"key", "a\n" + keyPEM + "\nb", "MHcCAQEE"},
		{"key in JSON", `{"k":"` + strings.ReplaceAll(keyPEM, "\n", `\n`) + `"}`, "MHcCAQEE"},
		{"key that is cut off", strings.TrimSuffix(keyPEM, "-----END EC PRIVATE KEY-----"), "MHcCAQEE"},
		{"key of which the end is left", keyPEM[40:], "Y3JldHNl"},
		{"key in base64", "data: " + encodedKey, encodedKey[20:60]},
		{"key in base64, from within", encodedKey[3:], encodedKey[20:60]},
		{"join token", "token L10" + strings.Repeat("ab", 32) + "::abcdef.0123456789abcdef expired", "0123456789abcdef"},
		{"short token", "id=abcdef.0123456789abcdef", "0123456789abcdef"},
		{"service account token", "got eyJhbGciOiJSUzI1NiIsImtpZCI6.eyJpc3MiOiJodHRwczovL2t1.c2lnbmF0dXJl here", "c2lnbmF0dXJl"},
		{"bearer", "Authorization: Bearer abc.def-123_456", "abc.def-123"},
		{"basic", "authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjpw"},
		{"password in a URL", "connect postgres://shop:pa%40ss/wo@rd@10.0.0.5:5432/db failed", "wo@rd"},
		{"MySQL", "mysql shop:geheim@tcp(10.0.0.5:3306)/db", "geheim"},
		{"cloud key", "user AKIAIOSFODNN7EXAMPLE denied", "IOSFODNN"},
		{"YAML", "password: hunter2hunter2", "hunter2"},
		{"YAML, quoted", `  db-password: "hunter2 hunter2"  # comment`, "hunter2"},
		{"YAML, block", "stringData:\n  password: |\n    hunter2\n    more hunter2\n  other: x\n", "hunter2"},
		{"YAML, list", "token:\n- hunter2\n- hunter22\n", "hunter2"},
		{"JSON", `{"name":"x","apiKey":"hunter2","y":1}`, "hunter2"},
		{"JSON in a string", `{\"secretKey\":\"hunter2\"}`, "hunter2"},
		{"environment", "LIMPET_SNAPSHOT_S3_SECRET_KEY=hunter2/+x", "hunter2"},
		{"flag", "limpet agent --token hunter2 --debug", "hunter2"},
		{"flag with =", "limpet agent --token=hunter2", "hunter2"},
		{"flag, quoted list", `["agent","--token","hunter2"]`, "hunter2"},
		{"known value", "said correct horse battery again", "horse"},
		{"known value in base64", base64.StdEncoding.EncodeToString([]byte("correct horse battery")), "Y29ycmVj"},
	} {
		got := r.Redact(c.text)
		if strings.Contains(got, c.secret) || !strings.Contains(got, gone) {
			t.Errorf("%s: %q leaves %q", c.name, c.text, got)
		}
		if again := r.Redact(got); again != got {
			t.Errorf("%s: the second time %q becomes %q", c.name, got, again)
		}
	}
}

func TestRedactLeavesTheRest(t *testing.T) {
	t.Parallel()
	r := NewRedactor("", "short")
	for _, text := range []string{
		"token-file: /etc/limpet/token\n",
		"the token was accepted, the secret is safe",
		"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
		"https://10.0.0.5:6443/api?x=y",
		"level=INFO msg=\"component is ready\" component=join-tokens took=23ms",
		"sha256:9b17c0fb52b48f6c41d170a7951de7443ce6df74ed072569d8cc7be8920c0c28",
		"secret \"kube-system/limpet-node-n1\" not found",
		"kind: Secret\nname: x\n",
		"a short line\n\n\ttabs\r\n",
	} {
		if got := r.Redact(text); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("password: |\n  x\n", "y")
	f.Add(`{"token":"`, `"}`)
	f.Add("https://", "@x")
	f.Add("\\\"token\\\"", ":")
	f.Fuzz(func(t *testing.T, before, after string) {
		const known = "k7xq9-known-value"
		r := NewRedactor(known)
		got := r.Redact(before + "\n" + keyPEM + "\n" + known + after)
		if strings.Contains(got, known) || strings.Contains(got, "MHcCAQEEIHNlY3JldHNl") {
			t.Errorf("a secret is left in %q", got)
		}
	})
}
