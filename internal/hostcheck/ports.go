package hostcheck

import (
	"net"
	"strconv"
	"time"
)

// statusSocket is where a running limpet answers `limpet status`.
const statusSocket = "/run/limpet/status.sock"

// portsOf lists what limpet listens on beyond loopback.
func portsOf(mode string) []port {
	ports := []port{
		{proto: "tcp", number: 10250, use: "kubelet"},
		{proto: "udp", number: 8472, use: "flannel vxlan"},
	}
	if mode == "server" {
		ports = append([]port{
			{proto: "tcp", number: 6443, use: "API server"},
			{proto: "udp", number: 10053, use: "cluster DNS"},
			{proto: "tcp", number: 10053, use: "cluster DNS"},
		}, ports...)
	}
	return ports
}

// tryPorts listens on each port for a moment.
func tryPorts(mode string) []port {
	ports := portsOf(mode)
	for i := range ports {
		p := &ports[i]
		at := ":" + strconv.Itoa(p.number)
		var err error
		if p.proto == "udp" {
			var c net.PacketConn
			if c, err = net.ListenPacket("udp", at); err == nil {
				_ = c.Close()
			}
		} else {
			var l net.Listener
			if l, err = net.Listen("tcp", at); err == nil {
				_ = l.Close()
			}
		}
		if err != nil {
			p.err = err.Error()
		}
	}
	return ports
}

// limpetRuns tells whether a limpet answers on this machine; it holds the ports then.
func limpetRuns() bool {
	c, err := net.DialTimeout("unix", statusSocket, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
