package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// binding ties an option to its field. Options of both commands reach their
// field through Server, which holds the Node; an Agent takes the Node out.
type binding struct {
	Kind Kind
	// set decodes values (already split) into the field. Kinds other than List
	// get exactly one value.
	set func(*Server, []string) error
	// get is the inverse: the field as values; none when the field is empty.
	get func(*Server) []string
}

func stringAt(field func(*Server) *string) binding {
	return binding{
		Kind: String,
		set:  func(s *Server, v []string) error { *field(s) = v[0]; return nil },
		get: func(s *Server) []string {
			if *field(s) == "" {
				return nil
			}
			return []string{*field(s)}
		},
	}
}

func intAt(field func(*Server) *int) binding {
	return binding{
		Kind: Int,
		set: func(s *Server, v []string) error {
			n, err := strconv.Atoi(v[0])
			if err != nil {
				return fmt.Errorf("%q is not a number", v[0])
			}
			*field(s) = n
			return nil
		},
		get: func(s *Server) []string { return []string{strconv.Itoa(*field(s))} },
	}
}

func durationAt(field func(*Server) *time.Duration) binding {
	return binding{
		Kind: String,
		set: func(s *Server, v []string) error {
			d, err := time.ParseDuration(v[0])
			if err != nil || d <= 0 {
				return fmt.Errorf("%q is not a duration such as 90s or 5m", v[0])
			}
			*field(s) = d
			return nil
		},
		get: func(s *Server) []string { return []string{field(s).String()} },
	}
}

func boolAt(field func(*Server) *bool) binding {
	return binding{
		Kind: Bool,
		set: func(s *Server, v []string) error {
			b, err := strconv.ParseBool(v[0])
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", v[0])
			}
			*field(s) = b
			return nil
		},
		get: func(s *Server) []string { return []string{strconv.FormatBool(*field(s))} },
	}
}

func modeAt(field func(*Server) *os.FileMode) binding {
	return binding{
		Kind: String,
		set: func(s *Server, v []string) error {
			mode, err := strconv.ParseUint(strings.TrimPrefix(v[0], "0o"), 8, 32)
			if err != nil || mode > 0o777 {
				return fmt.Errorf("%q is not an octal file mode such as 0600 or 644", v[0])
			}
			*field(s) = os.FileMode(mode)
			return nil
		},
		get: func(s *Server) []string { return []string{fmt.Sprintf("%04o", *field(s))} },
	}
}

func addrAt(field func(*Server) *netip.Addr) binding {
	return binding{
		Kind: String,
		set: func(s *Server, v []string) (err error) {
			*field(s), err = parseAddr(v[0])
			return err
		},
		get: func(s *Server) []string {
			if !field(s).IsValid() {
				return nil
			}
			return []string{field(s).String()}
		},
	}
}

func listAt(field func(*Server) *[]string) binding {
	return binding{
		Kind: List,
		set:  func(s *Server, v []string) error { *field(s) = v; return nil },
		get:  func(s *Server) []string { return *field(s) },
	}
}

func addrsAt(field func(*Server) *[]netip.Addr) binding {
	return parsedListAt(field, parseAddr)
}

func prefixesAt(field func(*Server) *[]netip.Prefix) binding {
	return parsedListAt(field, parsePrefix)
}

func parsedListAt[T fmt.Stringer](field func(*Server) *[]T, parse func(string) (T, error)) binding {
	return binding{
		Kind: List,
		set: func(s *Server, v []string) error {
			var out []T
			var errs []error
			for _, text := range v {
				parsed, err := parse(text)
				out, errs = append(out, parsed), append(errs, err)
			}
			*field(s) = out
			return errors.Join(errs...)
		},
		get: func(s *Server) []string {
			var out []string
			for _, v := range *field(s) {
				out = append(out, v.String())
			}
			return out
		},
	}
}

// parseAddr refuses what netip accepts and no component understands: zones
// and IPv4 addresses dressed as IPv6.
func parseAddr(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", text)
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone; give the address without %%%s", text, a.Zone())
	case a.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is an IPv4 address in IPv6 form; write %s", text, a.Unmap())
	}
	return a, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%q is not an address range such as 10.42.0.0/16", text)
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 range in IPv6 form", text)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%q does not start at its own first address; did you mean %s?", text, p.Masked())
	}
	return p, nil
}
