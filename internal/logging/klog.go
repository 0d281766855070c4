package logging

import (
	"flag"
	"strconv"

	"k8s.io/klog/v2"
)

// setVerbosity sets klog's -v, which can only be set through its flags.
func setVerbosity(v int) {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	_ = fs.Set("v", strconv.Itoa(v)) // an integer is always accepted
	_ = fs.Set("logtostderr", "true")
}
