package logging

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// The log of the process is one: these cases share klog and logrus, so they
// run one after another.
func TestSetup(t *testing.T) {
	tests := []struct {
		name    string
		opts    Options
		shown   []string
		missing []string
	}{
		{"by default upstream's information is left out", Options{},
			[]string{"own-info", "klog-error", "logrus-warning"}, []string{"own-debug", "klog-info", "logrus-info", "manifest file is empty", "klog-late"}},
		{"a person at a terminal sees warnings only", Options{Quiet: true},
			[]string{"klog-error", "logrus-warning"}, []string{"own-info", "klog-info"}},
		{"debug shows all", Options{Debug: true},
			[]string{"own-debug", "klog-info", "logrus-info", "manifest file is empty", "klog-late"}, []string{"klog-v4"}},
		{"verbosity shows more of upstream", Options{Verbosity: 4},
			[]string{"own-info", "klog-info", "klog-v4"}, []string{"own-debug"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			l := Setup(&out, tt.opts)
			log := l.Root
			log.Info("own-info")
			log.Debug("own-debug")
			klog.Info("klog-info")
			klog.V(4).Info("klog-v4")
			klog.Error("klog-error")
			klog.Errorf("The manifest file is empty, ignoring.")
			logrus.Info("logrus-info")
			logrus.Warn("logrus-warning")
			l.Stopping()
			klog.Error("klog-late")
			klog.Flush()
			got := out.String()
			for _, s := range tt.shown {
				if !strings.Contains(got, s) {
					t.Errorf("%q is missing in\n%s", s, got)
				}
			}
			for _, s := range tt.missing {
				if strings.Contains(got, s) {
					t.Errorf("%q is shown in\n%s", s, got)
				}
			}
		})
	}
}

func TestUpstreamRecordsNameTheirPart(t *testing.T) {
	var out bytes.Buffer
	Setup(&out, Options{})
	klog.FromContext(Upstream(t.Context(), "kubelet")).Error(nil, "lost")
	if got := out.String(); !strings.Contains(got, "component=kubernetes part=kubelet") {
		t.Errorf("record is %q", got)
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
}
