package doctor

import (
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
)

// Redactor takes secrets out of text. It goes by what secrets look like and by
// the names that they are given, and errs towards taking out too much.
type Redactor struct {
	known []string // values that are secret wherever they stand, the longest first
}

// gone stands in the place of a secret.
const gone = "(redacted)"

// NewRedactor returns a Redactor that knows these values to be secret besides.
// Values shorter than 6 bytes are not looked for: they would match by chance.
func NewRedactor(known ...string) *Redactor {
	list := slices.DeleteFunc(slices.Clone(known), func(s string) bool { return len(s) < 6 })
	slices.SortFunc(list, func(a, b string) int { return len(b) - len(a) })
	return &Redactor{known: slices.Compact(list)}
}

var (
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`)
	// A key of which only the end is there: the text was cut.
	privateKeyEnd = regexp.MustCompile(`(?s)\A[A-Za-z0-9+/=\s\\n]*-----END [A-Z0-9 ]*PRIVATE KEY-----`)
	joinToken     = regexp.MustCompile(`\b([a-z0-9]{6})\.[a-z0-9]{16}\b`)
	webToken      = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*`)
	authorization = regexp.MustCompile(`(?i)\b(bearer|basic)([\s:]+)[A-Za-z0-9._~+/=-]{6,}`)
	urlUser       = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>]*@`)
	dsnUser       = regexp.MustCompile(`[^\s"'=]+:[^\s"']*@(tcp|unix)\(`)
	cloudKey      = regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`)
	base64Run     = regexp.MustCompile(`[A-Za-z0-9+/_-]{40,}={0,2}`)
	// A name of a secret with its value: token: x, "token":"x", --token x, LIMPET_TOKEN=x.
	named = regexp.MustCompile(`(?i)((?:["']?)([a-z0-9_.-]*(?:password|passwd|passphrase|secret|token|credential|authorization|api[-_]?key|access[-_]?key|private[-_]?key|key[-_]?data|encryption[-_]?key)[a-z0-9_-]*)(?:\\?["'])?(?:[ \t]*[:=][ \t]*|[ \t]*,[ \t]*|[ \t]+))(\\?"(?:[^"\\]|\\.)*\\?"|'[^'\n]*'|[^\s,;&}\]"']+)`)
	// A name whose value stands on the lines below it, indented more.
	namedBlock = regexp.MustCompile(`(?i)^(\s*)(?:- )?["']?[a-z0-9_.-]*(?:password|passwd|passphrase|secret|token|credential|key[-_]?data|private[-_]?key)["']?\s*:\s*([|>][+-]?\d*)?\s*$`)
	// Names that say where a secret is, or that it is about one.
	harmless = regexp.MustCompile(`(?i)(file|path|dir|name|names|ref|ttl|count|expiration|expires|seconds|id|s|controller|webhook-config|version|cleaner|issuer|issuers|jwks-uri|signing|mount)$`)
)

// Redact returns the text without secrets.
func (r *Redactor) Redact(text string) string {
	text = privateKey.ReplaceAllString(text, gone)
	text = privateKeyEnd.ReplaceAllString(text, gone)
	for _, secret := range r.known {
		text = strings.ReplaceAll(text, secret, gone)
		text = strings.ReplaceAll(text, base64.StdEncoding.EncodeToString([]byte(secret)), gone)
	}
	text = urlUser.ReplaceAllString(text, "${1}"+gone+"@")
	text = dsnUser.ReplaceAllString(text, gone+"@${1}(")
	text = authorization.ReplaceAllString(text, "${1}${2}"+gone)
	text = webToken.ReplaceAllString(text, gone)
	text = joinToken.ReplaceAllString(text, "${1}."+gone)
	text = cloudKey.ReplaceAllString(text, gone)
	text = base64Run.ReplaceAllStringFunc(text, redactEncoded)
	text = redactBlocks(text)
	return named.ReplaceAllStringFunc(text, redactNamed)
}

// redactEncoded takes out what is a private key or a kubeconfig in base64.
func redactEncoded(run string) string {
	// A run may begin or end within the encoding, at any of four places.
	body := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(run), "=")
	for skip := range 4 {
		if skip >= len(body) {
			break
		}
		part := body[skip:]
		decoded, err := base64.RawStdEncoding.DecodeString(part[:len(part)/4*4])
		if err != nil {
			continue
		}
		if text := string(decoded); strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "client-key-data") {
			return gone
		}
	}
	return run
}

// redactNamed keeps the name.
func redactNamed(match string) string {
	parts := named.FindStringSubmatch(match)
	name, value := parts[2], parts[3]
	sep := strings.TrimRight(strings.TrimLeft(parts[1][strings.Index(parts[1], name)+len(name):], `\"'`), " \t")
	// Prose ("the token was accepted") is no assignment; a flag's value is.
	flag := strings.HasPrefix(name, "--")
	switch {
	case harmless.MatchString(name), strings.Contains(value, gone):
		return match
	case sep == "" && !flag:
		return match
	case value == "true" || value == "false" || value == "null" || value == `""`:
		return match
	}
	quote := ""
	if strings.HasPrefix(value, `"`) || strings.HasPrefix(value, "'") {
		quote = value[:1]
	}
	return parts[1] + quote + gone + quote
}

// redactBlocks takes out what is indented below the name of a secret.
func redactBlocks(text string) string {
	if !strings.Contains(text, ":") {
		return text
	}
	var out strings.Builder
	indent := -1 // of the name, while in its block
	for line := range strings.SplitAfterSeq(text, "\n") {
		trimmed := strings.TrimLeft(line, " \t")
		depth := len(line) - len(trimmed)
		if indent >= 0 && strings.TrimSpace(line) != "" {
			if depth > indent || depth == indent && strings.HasPrefix(trimmed, "- ") {
				if strings.HasPrefix(trimmed, "- ") || !strings.Contains(trimmed, ":") || depth > indent {
					out.WriteString(line[:depth] + gone + "\n")
					continue
				}
			}
			indent = -1
		}
		if m := namedBlock.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil {
			indent = len(m[1])
		}
		out.WriteString(line)
	}
	return out.String()
}
