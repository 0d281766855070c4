package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// maxObjects bounds what is taken of one kind.
const maxObjects = 5000

// fromCluster asks the API server as administrator, which only a server can.
func (c *collection) fromCluster(get func(context.Context, kubernetes.Interface) (string, error)) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if _, err := os.Stat(c.opts.Kubeconfig); err != nil {
			return "", fmt.Errorf("the cluster's objects are asked for on a server only: %w", err)
		}
		config, err := clientcmd.BuildConfigFromFlags("", c.opts.Kubeconfig)
		if err != nil {
			return "", fmt.Errorf("read the administrator's kubeconfig: %w", err)
		}
		config.Timeout = partTimeout / 2
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return "", fmt.Errorf("client: %w", err)
		}
		return get(ctx, client)
	}
}

// table aligns columns.
func table(write func(row func(cells ...any))) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	write(func(cells ...any) {
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(w, "\t")
			}
			fmt.Fprint(w, strings.NewReplacer("\n", " ", "\t", " ").Replace(fmt.Sprint(cell)))
		}
		fmt.Fprintln(w)
	})
	_ = w.Flush() // to memory
	return b.String()
}

func stamp(t metav1.Time) string { return t.UTC().Format(time.RFC3339) }

func nodes(ctx context.Context, client kubernetes.Interface) (string, error) {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: maxObjects})
	if err != nil {
		return "", fmt.Errorf("list nodes: %w", err)
	}
	return table(func(row func(...any)) {
		row("NODE", "CREATED", "KUBELET", "KERNEL", "OS", "RUNTIME", "ADDRESSES", "TAINTS", "PODS FROM")
		for _, n := range list.Items {
			var addresses, taints []string
			for _, a := range n.Status.Addresses {
				addresses = append(addresses, a.Address)
			}
			for _, t := range n.Spec.Taints {
				taints = append(taints, t.ToString())
			}
			i := n.Status.NodeInfo
			row(n.Name, stamp(n.CreationTimestamp), i.KubeletVersion, i.KernelVersion, i.OSImage, i.ContainerRuntimeVersion,
				strings.Join(addresses, ","), strings.Join(taints, ","), strings.Join(n.Spec.PodCIDRs, ","))
			for _, cond := range n.Status.Conditions {
				row("  "+string(cond.Type), cond.Status, "since "+stamp(cond.LastTransitionTime), cond.Reason, cond.Message)
			}
		}
	}), nil
}

// pods shows what is known of them, and nothing of what they were given:
// environment, arguments and annotations may hold secrets.
func pods(ctx context.Context, client kubernetes.Interface) (string, error) {
	list, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{Limit: maxObjects})
	if err != nil {
		return "", fmt.Errorf("list pods: %w", err)
	}
	return table(func(row func(...any)) {
		row("NAMESPACE/POD", "PHASE", "NODE", "ADDRESS", "CREATED", "REASON")
		for _, p := range list.Items {
			row(p.Namespace+"/"+p.Name, p.Status.Phase, p.Spec.NodeName, p.Status.PodIP, stamp(p.CreationTimestamp), p.Status.Reason+" "+p.Status.Message)
			for _, cond := range p.Status.Conditions {
				if cond.Status != corev1.ConditionTrue {
					row("  "+string(cond.Type), cond.Status, cond.Reason, cond.Message)
				}
			}
			for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				row("  container "+s.Name, containerState(s.State), fmt.Sprintf("ready=%t restarts=%d", s.Ready, s.RestartCount), s.Image, "before: "+containerState(s.LastTerminationState))
			}
		}
	}), nil
}

func containerState(s corev1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running since " + stamp(s.Running.StartedAt)
	case s.Waiting != nil:
		return "waiting: " + s.Waiting.Reason + " " + s.Waiting.Message
	case s.Terminated != nil:
		return fmt.Sprintf("ended %s with %d: %s", stamp(s.Terminated.FinishedAt), s.Terminated.ExitCode, s.Terminated.Reason)
	}
	return "none"
}

func events(ctx context.Context, client kubernetes.Interface) (string, error) {
	list, err := client.CoreV1().Events("").List(ctx, metav1.ListOptions{Limit: maxObjects})
	if err != nil {
		return "", fmt.Errorf("list events: %w", err)
	}
	last := func(e corev1.Event) time.Time {
		if e.LastTimestamp.IsZero() {
			return e.EventTime.Time
		}
		return e.LastTimestamp.Time
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return last(a).Compare(last(b)) })
	return table(func(row func(...any)) {
		row("LAST", "TYPE", "TIMES", "OBJECT", "REASON", "MESSAGE")
		for _, e := range list.Items {
			row(last(e).UTC().Format(time.RFC3339), e.Type, e.Count, e.InvolvedObject.Kind+" "+e.InvolvedObject.Namespace+"/"+e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}), nil
}

// network lists interfaces, addresses and routes.
func network(context.Context) (string, error) {
	var b strings.Builder
	links, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("list network interfaces: %w", err)
	}
	for _, l := range links {
		addresses, err := l.Addrs()
		fmt.Fprintf(&b, "%d: %s mtu %d %s %s %v", l.Index, l.Name, l.MTU, l.Flags, l.HardwareAddr, addresses)
		if err != nil {
			fmt.Fprintf(&b, " (%v)", err)
		}
		fmt.Fprintln(&b)
	}
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(nil, family)
		errs = append(errs, err)
		for _, r := range routes {
			fmt.Fprintf(&b, "route %s\n", r)
		}
	}
	return b.String(), errors.Join(errs...)
}
