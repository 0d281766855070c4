package registries

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Load reads and checks a registries.yaml. A file that does not exist is an
// empty configuration.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("read registries file: %w", err)
	}
	return Parse(path, data)
}

// Parse checks the content of a registries.yaml; name is for errors, which are of
// the form NAME:LINE: what is wrong. All that is wrong is reported, not only the
// first, and never a password.
func Parse(name string, data []byte) (Config, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	p := &parser{name: name}
	cfg := Config{Mirrors: map[string]Mirror{}, Hosts: map[string]Host{}}
	if len(doc.Content) == 0 { // empty, or only comments
		return cfg, nil
	}
	p.mapping(doc.Content[0], "the file", fields{
		"mirrors": func(n *yaml.Node) { p.entries(n, "mirrors", p.mirror(cfg.Mirrors)) },
		"configs": func(n *yaml.Node) { p.entries(n, "configs", p.host(cfg.Hosts)) },
		"auths": func(n *yaml.Node) {
			p.errorf(n, "auths is not supported any more: write the credentials as configs: HOST: auth:")
		},
	})
	if len(p.errs) > 0 {
		return Config{}, errors.Join(p.errs...)
	}
	return cfg, nil
}

// fields are the keys that a mapping may have and what to do with their values.
type fields map[string]func(*yaml.Node)

// parser walks the YAML tree, which knows its line numbers, and collects errors.
type parser struct {
	name string
	errs []error
}

func (p *parser) errorf(n *yaml.Node, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s:%d: %w", p.name, n.Line, fmt.Errorf(format, args...)))
}

// entries calls each for every key of a mapping that may have any keys.
func (p *parser) entries(n *yaml.Node, what string, each func(key, value *yaml.Node)) {
	n = resolve(n)
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.errorf(n, "%s must be a mapping", what)
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolve(n.Content[i])
		if key.Kind != yaml.ScalarNode {
			p.errorf(key, "a key of %s must be a string", what)
			continue
		}
		if seen[key.Value] {
			p.errorf(key, "%q is in %s twice", key.Value, what)
			continue
		}
		seen[key.Value] = true
		each(key, resolve(n.Content[i+1]))
	}
}

// mapping is entries for a mapping with known keys.
func (p *parser) mapping(n *yaml.Node, what string, known fields) {
	p.entries(n, what, func(key, value *yaml.Node) {
		if parse, ok := known[key.Value]; ok {
			parse(value)
			return
		}
		p.errorf(key, "unknown key %q in %s%s", key.Value, what, suggest(key.Value, known))
	})
}

func (p *parser) text(into *string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode {
			p.errorf(n, "%s must be a string", what)
			return
		}
		if n.Tag != "!!null" {
			*into = n.Value
		}
	}
}

func (p *parser) boolean(into *bool, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if n.Kind != yaml.ScalarNode || n.Decode(into) != nil {
			p.errorf(n, "%s must be true or false", what)
		}
	}
}

// pemFile is the absolute name of a file that can be read now.
func (p *parser) pemFile(into *string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		p.text(into, what)(n)
		if *into == "" {
			return
		}
		if !filepath.IsAbs(*into) {
			p.errorf(n, "%s must be an absolute path, not %q", what, *into)
			return
		}
		f, err := os.Open(*into)
		if err != nil {
			p.errorf(n, "%s: %w", what, err)
			return
		}
		_ = f.Close() // only opened
	}
}

func (p *parser) mirror(into map[string]Mirror) func(key, value *yaml.Node) {
	return func(key, value *yaml.Node) {
		var m Mirror
		host, ok := p.hostKey(key, true)
		p.mapping(value, "mirror "+key.Value, fields{
			"endpoint": func(n *yaml.Node) { m.Endpoints = p.endpoints(n) },
			"rewrite":  func(n *yaml.Node) { m.Rewrites = p.rewrites(n) },
		})
		if ok {
			into[host] = m
		}
	}
}

func (p *parser) host(into map[string]Host) func(key, value *yaml.Node) {
	return func(key, value *yaml.Node) {
		var h Host
		var encoded string
		host, ok := p.hostKey(key, false)
		p.mapping(value, "config "+key.Value, fields{
			"auth": func(n *yaml.Node) {
				p.mapping(n, "auth of "+key.Value, fields{
					"username": p.text(&h.Auth.Username, "username"), "password": p.text(&h.Auth.Password, "password"),
					"auth": p.text(&encoded, "auth"), "identity_token": p.text(&h.Auth.IdentityToken, "identity_token"),
				})
				p.completeAuth(n, &h.Auth, encoded)
			},
			"tls": func(n *yaml.Node) {
				p.mapping(n, "tls of "+key.Value, fields{
					"ca_file": p.pemFile(&h.TLS.CAFile, "ca_file"), "cert_file": p.pemFile(&h.TLS.CertFile, "cert_file"),
					"key_file":             p.pemFile(&h.TLS.KeyFile, "key_file"),
					"insecure_skip_verify": p.boolean(&h.TLS.InsecureSkipVerify, "insecure_skip_verify"),
				})
				if (h.TLS.CertFile == "") != (h.TLS.KeyFile == "") {
					p.errorf(n, "cert_file and key_file of %s go together: one of them is missing", key.Value)
				}
			},
		})
		if ok {
			into[host] = h
		}
	}
}

// completeAuth decodes auth, base64 of user:password, and checks what is there.
func (p *parser) completeAuth(n *yaml.Node, a *Auth, encoded string) {
	if encoded != "" {
		raw, err := base64.StdEncoding.DecodeString(encoded)
		user, password, ok := strings.Cut(string(raw), ":")
		if err != nil || !ok {
			p.errorf(n, "auth must be the base64 form of USER:PASSWORD")
			return
		}
		if a.Username != "" || a.Password != "" {
			p.errorf(n, "give either auth or username and password")
			return
		}
		a.Username, a.Password = user, strings.TrimRight(password, "\x00")
	}
	if (a.Username == "") != (a.Password == "") {
		p.errorf(n, "username and password go together: one of them is missing")
	}
	if a.Username != "" && a.IdentityToken != "" {
		p.errorf(n, "give either identity_token or username and password")
	}
}

// hostKey checks a key that names a registry.
func (p *parser) hostKey(key *yaml.Node, wildcard bool) (string, bool) {
	host := strings.ToLower(key.Value)
	if host == Wildcard && wildcard {
		return host, true
	}
	u, err := url.Parse("//" + host)
	if err != nil || u.Host != host || u.Hostname() == "" || strings.ContainsAny(host, "/@?#*\\ ") || strings.HasPrefix(host, ".") {
		p.errorf(key, "%q is not a registry: write its HOST or HOST:PORT as in the names of images, without https:// and path", key.Value)
		return "", false
	}
	if _, _, err := net.SplitHostPort(host); err != nil && strings.HasSuffix(host, ":") {
		p.errorf(key, "%q has an empty port", key.Value)
		return "", false
	}
	return host, true
}

func (p *parser) endpoints(n *yaml.Node) []*url.URL {
	if n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		p.errorf(n, `endpoint must be a list: ["https://HOST"]`)
		return nil
	}
	var list []*url.URL
	for _, item := range n.Content {
		item = resolve(item)
		u, err := url.Parse(item.Value)
		switch {
		case item.Kind != yaml.ScalarNode:
			p.errorf(item, "an endpoint must be a string")
		case err == nil && u.User != nil:
			p.errorf(item, "an endpoint has no credentials in it: write them as configs: HOST: auth:")
		case err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "":
			p.errorf(item, "endpoint %q is not an URL: write https://HOST[:PORT][/PATH]", item.Value)
		case u.RawQuery != "" || u.Fragment != "":
			p.errorf(item, "endpoint %q must not have a query or fragment", item.Value)
		default:
			u.Host = strings.ToLower(u.Host)
			u.Path = strings.TrimRight(u.Path, "/")
			if u.Path == "" {
				u.Path = "/v2"
			}
			list = append(list, u)
		}
	}
	return list
}

func (p *parser) rewrites(n *yaml.Node) []Rewrite {
	var list []Rewrite
	p.entries(n, "rewrite", func(key, value *yaml.Node) {
		pattern, err := regexp.Compile(key.Value)
		if err != nil {
			p.errorf(key, "rewrite %q is not a regular expression: %w", key.Value, err)
			return
		}
		r := Rewrite{Pattern: pattern}
		p.text(&r.Replacement, "the value of a rewrite")(value)
		list = append(list, r)
	})
	return list
}

// resolve follows an alias to its anchor.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}
