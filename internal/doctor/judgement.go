package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/limpetio/limpet/internal/hostcheck"
	"github.com/limpetio/limpet/internal/status"
)

// finding is something wrong and what to do about it.
type finding struct{ what, remedy string }

// judgement says in a few lines what is wrong.
func (c *collection) judgement(ctx context.Context) (string, error) {
	var findings []finding
	if c.opts.Problems != nil {
		findings = append(findings, finding{"the configuration has mistakes: " + c.opts.Problems.Error(), "limpet config check tells where"})
	}
	report, err := status.Fetch(ctx, status.Socket)
	if err != nil {
		findings = append(findings, finding{err.Error(), "log.txt in the archive tells why it ended, if it did"})
	} else {
		for _, problem := range report.Problems() {
			findings = append(findings, finding{what: problem})
		}
	}
	machine, err := checkMachine(ctx, c.opts.DataDir)
	if err != nil {
		findings = append(findings, finding{what: err.Error()})
	}
	findings = append(findings, machine...)
	certs, err := certificatesInTrouble(c.opts.DataDir)
	if err != nil {
		findings = append(findings, finding{what: err.Error()})
	}
	return write(append(findings, certs...)), nil
}

// checkMachine is what check-config says must change.
func checkMachine(ctx context.Context, dataDir string) ([]finding, error) {
	var b bytes.Buffer
	if _, err := hostcheck.Run(ctx, hostcheck.Options{DataDir: dataDir, Out: &b, JSON: true}); err != nil {
		return nil, err
	}
	var report hostcheck.Report
	if err := json.Unmarshal(b.Bytes(), &report); err != nil {
		return nil, fmt.Errorf("read the check of this machine: %w", err)
	}
	var findings []finding
	for _, f := range report.Findings {
		if f.Verdict == hostcheck.Fail || f.Verdict == hostcheck.Warn {
			findings = append(findings, finding{fmt.Sprintf("%s: %s (%s)", f.Name, f.Detail, f.Verdict), f.Remedy})
		}
	}
	return findings, nil
}

// certificatesInTrouble are those whose time is over or has not come.
func certificatesInTrouble(dataDir string) ([]finding, error) {
	text, err := certificates(time.Now(), filepath.Join(dataDir, "server"), filepath.Join(dataDir, "agent"))
	if err != nil {
		return nil, fmt.Errorf("look at the certificates: %w", err)
	}
	var findings []finding
	for line := range strings.Lines(text) {
		if strings.Contains(line, ": "+expired+": ") || strings.Contains(line, ": "+notYet+": ") {
			findings = append(findings, finding{"certificate " + strings.TrimSpace(line), "is the clock right (date)? otherwise restart limpet, which renews its certificates"})
		}
	}
	return findings, nil
}

// write is a list, or the good news.
func write(findings []finding) string {
	if len(findings) == 0 {
		return "Nothing wrong was found.\n"
	}
	var b strings.Builder
	thing := "things look"
	if len(findings) == 1 {
		thing = "thing looks"
	}
	fmt.Fprintf(&b, "%d %s wrong:\n", len(findings), thing)
	for _, f := range findings {
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(f.what, "\n", "\n    "))
		if f.remedy != "" {
			fmt.Fprintf(&b, "    → %s\n", f.remedy)
		}
	}
	return b.String()
}
