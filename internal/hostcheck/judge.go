package hostcheck

import "fmt"

// Verdict is the judgement of one finding.
type Verdict string

// The verdicts: Info is neither good nor bad, Warn works with a drawback, Fail
// means that limpet will not work.
const (
	OK   Verdict = "ok"
	Info Verdict = "info"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
)

// Finding is one line of the report.
type Finding struct {
	Section string  `json:"section"`
	Name    string  `json:"name"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail,omitempty"`
	// Remedy says what to do about a Warn or Fail.
	Remedy string `json:"remedy,omitempty"`
}

// judge turns facts into findings, in the order in which they are reported.
func judge(f facts) []Finding {
	var r report
	r.section = "kernel"
	judgeKernel(&r, f)
	r.section = "control groups"
	judgeCgroups(&r, f)
	r.section = "privileges"
	judgePrivileges(&r, f)
	r.section = "settings"
	judgeSysctls(&r, f)
	r.section = "storage and memory"
	judgeDisk(&r, f)
	judgeMemory(&r, f)
	r.section = "network"
	judgeNetwork(&r, f)
	r.section = "time and system"
	judgeClock(&r, f.clock)
	judgeSystem(&r, f.system)
	return r.findings
}

// report collects findings.
type report struct {
	section  string
	findings []Finding
}

func (r *report) add(v Verdict, name, remedy, format string, args ...any) {
	if v == OK || v == Info {
		remedy = ""
	}
	r.findings = append(r.findings, Finding{Section: r.section, Name: name, Verdict: v, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

// failed tells whether something required is missing.
func failed(findings []Finding) bool {
	for _, f := range findings {
		if f.Verdict == Fail {
			return true
		}
	}
	return false
}
