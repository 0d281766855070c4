package hostcheck

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Options say what is checked and how it is printed.
type Options struct {
	// DataDir is where limpet would keep its data; it need not exist.
	DataDir string
	// Mode is "server" (default) or "agent".
	Mode string
	// PayloadBin is the directory of the unpacked helpers; if empty, the one
	// below DataDir, else the machine's own nft is tried.
	PayloadBin string
	// Out gets the report: text, or one JSON object.
	Out   io.Writer
	JSON  bool
	Color bool // only for text
}

// Report is the JSON form.
type Report struct {
	Kernel   string    `json:"kernel"`
	Mode     string    `json:"mode"`
	Failed   bool      `json:"failed"`
	Findings []Finding `json:"findings"`
}

// Run checks the machine and prints what it found. It leaves no trace: what it
// tries is tried in namespaces of its own and, for overlay, in a temporary
// directory. failed tells that something required is missing; err that checking
// or printing itself did not work.
func Run(ctx context.Context, opts Options) (failed bool, err error) {
	switch opts.Mode {
	case "":
		opts.Mode = "server"
	case "server", "agent":
	default:
		return false, fmt.Errorf("check this machine: mode %q is neither server nor agent", opts.Mode)
	}
	f, err := gather(ctx, opts)
	if err != nil {
		return false, fmt.Errorf("check this machine: %w", err)
	}
	r := newReport(f)
	if opts.JSON {
		enc := json.NewEncoder(opts.Out)
		enc.SetIndent("", "  ")
		return r.Failed, enc.Encode(r)
	}
	_, err = io.WriteString(opts.Out, r.text(opts.Color))
	return r.Failed, err
}

func newReport(f facts) Report {
	findings := judge(f)
	return Report{Kernel: f.host.KernelVersion, Mode: f.mode, Failed: failed(findings), Findings: findings}
}

// text writes one line for each finding, its remedy below it, and a summary.
func (r Report) text(color bool) string {
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Name))
	}
	var b strings.Builder
	section := ""
	counts := make(map[Verdict]int)
	for _, f := range r.Findings {
		if f.Section != section {
			section = f.Section
			fmt.Fprintf(&b, "%s%s\n", ifHas(b.Len() > 0, "\n"), section)
		}
		counts[f.Verdict]++
		fmt.Fprintf(&b, "  %s  %-*s  %s\n", paint(f.Verdict, color), width, f.Name, f.Detail)
		if f.Remedy != "" {
			fmt.Fprintf(&b, "        %*s→ %s\n", width, "", f.Remedy)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", summary(r.Mode, counts))
	return b.String()
}

func summary(mode string, counts map[Verdict]int) string {
	warnings := fmt.Sprintf("%d warnings", counts[Warn])
	if counts[Warn] == 1 {
		warnings = "1 warning"
	}
	switch counts[Fail] {
	case 0:
		return fmt.Sprintf("This machine can run limpet %s (%s).", mode, warnings)
	case 1:
		return fmt.Sprintf("This machine cannot run limpet %s: 1 requirement is not met (%s).", mode, warnings)
	}
	return fmt.Sprintf("This machine cannot run limpet %s: %d requirements are not met (%s).", mode, counts[Fail], warnings)
}

// paint writes the verdict four characters wide, in color if wanted.
func paint(v Verdict, color bool) string {
	word := fmt.Sprintf("%-4s", v)
	if v == Fail {
		word = "FAIL"
	}
	if !color {
		return word
	}
	code := map[Verdict]string{OK: "32", Info: "36", Warn: "33", Fail: "1;31"}[v]
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}
