// One side of a measurement on gVisor's netstack, over a TUN or TAP interface.
//
// CUBIC, SACK and RACK are on, buffers as the flags say. Without `--extra offload=true` the link is gVisor's own
// fdbased endpoint (one frame per system call, as it does on such descriptors); with it, the
// endpoint of link.go, which passes super-segments whole.
//
// Options, lines and results are those of `weft-bench side` (benches/src/side.rs).
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic        = 1
	chunkBytes = 256 << 10
	samplesMax = 4 << 20
)

var (
	role        = flag.String("role", "server", "server or client")
	workload    = flag.String("workload", "bulk-in", "as in weft-bench")
	carrier     = flag.String("carrier", "tun", "tun or tap")
	device      = flag.String("device", "net0", "interface")
	local       = flag.String("local", "10.77.0.1", "our address")
	peer        = flag.String("peer", "10.77.0.2", "the other side's address")
	port        = flag.Int("port", 5001, "the server's port")
	size        = flag.Int("bytes", 1, "bytes of a request and of a response")
	connections = flag.Int("connections", 1, "connections of the client")
	seconds     = flag.Float64("seconds", 1, "measured seconds")
	warmup      = flag.Float64("warmup-s", 0.2, "seconds before them")
	most        = flag.Uint64("operations-max", 1<<63, "the measured time ends after so many operations too")
	mtu         = flag.Int("mtu", 1500, "L3 MTU")

	offload = false
	buffer  = 4 << 20

	received, sent, operations, failures uint64
	measured                             uint32
	samplesLock                          sync.Mutex
	samples                              []uint32
	marks                                [2]*mark
)

// mark is everything that is read when the measured time begins and when it ends.
type mark struct {
	at                         time.Time
	user, system               float64
	operations, received, sent uint64
}

func takeMark(which int) {
	user, system := cpu()
	marks[which] = &mark{
		at: time.Now(), user: user, system: system, operations: atomic.LoadUint64(&operations),
		received: atomic.LoadUint64(&received), sent: atomic.LoadUint64(&sent),
	}
}

// parse takes the options; those that mean nothing here (goroutines always block) are accepted.
func parse() {
	for _, name := range []string{"engine", "poll", "queues", "cpu"} {
		flag.String(name, "", "ignored")
	}
	flag.Func("extra", "offload=true, buffer=BYTES", func(text string) error {
		key, value, _ := strings.Cut(text, "=")
		switch key {
		case "offload":
			offload = value == "true"
		case "buffer":
			n, err := strconv.Atoi(value)
			buffer = n
			return err
		}
		return nil
	})
	arguments := os.Args[1:]
	for i, argument := range arguments {
		// "--extra a=b side --engine ...": the name of the command may come after engine options
		if argument == "side" {
			arguments = append(arguments[:i:i], arguments[i+1:]...)
			break
		}
	}
	if err := flag.CommandLine.Parse(arguments); err != nil {
		fail("options", err)
	}
	if *size <= 0 || *connections <= 0 || *mtu < 576 {
		fail("options", "bytes, connections and MTU must be positive")
	}
	if *carrier == "veth" || (*carrier == "wan" && offload) || (*workload == "udp-echo" && *role == "client") {
		fail("options", fmt.Sprintf("engine 'gvisor' does not do %s over %s as %s", *workload, *carrier, *role))
	}
}

func fail(what string, err interface{}) {
	fmt.Fprintf(os.Stderr, "gvisor side: %s: %v\n", what, err)
	os.Exit(1)
}

func must(what string, err tcpip.Error) {
	if err != nil {
		fail(what, err)
	}
}

func add(counter *uint64, n int) {
	if n > 0 {
		atomic.AddUint64(counter, uint64(n))
	}
}

func link() stack.LinkEndpoint {
	if *carrier == "wan" {
		return packetLink()
	}
	tap := *carrier == "tap"
	fd, err := openTun(*device, tap, offload)
	if err != nil {
		fail("device", err)
	}
	var mac tcpip.LinkAddress
	if tap {
		mac = tcpip.LinkAddress("\x02\x77\x00\x00\x00\x02")
	}
	if offload {
		return newVnetEndpoint(fd, uint32(*mtu), mac)
	}
	e, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: uint32(*mtu), EthernetHeader: tap, Address: mac,
		// a TUN without the header carries what the kernel has checked or made itself
		RXChecksumOffload: false,
	})
	if err != nil {
		fail("fdbased link", err)
	}
	return e
}

func newStack() *stack.Stack {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	set := func(option tcpip.SettableTransportProtocolOption) {
		must("TCP option", s.SetTransportProtocolOption(tcp.ProtocolNumber, option))
	}
	cubic := tcpip.CongestionControlOption("cubic")
	set(&cubic)
	sack := tcpip.TCPSACKEnabled(true)
	set(&sack)
	recovery := tcpip.TCPRecovery(tcpip.TCPRACKLossDetection)
	set(&recovery)
	set(&tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: buffer, Max: buffer})
	set(&tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: buffer, Max: buffer})
	must("NIC", s.CreateNIC(nic, link()))
	must("address", s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: ip(*local), PrefixLen: 16,
		},
	}, stack.AddressProperties{}))
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return s
}

func ip(text string) tcpip.Address {
	parsed := net.ParseIP(text).To4()
	if parsed == nil {
		fail("address", text)
	}
	return tcpip.Address(parsed)
}

func sendsBulk() bool {
	return *workload == "bulk-both" || (*role == "client" && *workload == "bulk-in") ||
		(*role == "server" && *workload == "bulk-out")
}

// stream runs bulk on one connection, both directions as told, until it ends.
func stream(conn net.Conn) {
	if sendsBulk() {
		go func() {
			chunk := make([]byte, chunkBytes)
			for {
				n, err := conn.Write(chunk)
				add(&sent, n)
				if err != nil {
					return
				}
			}
		}()
	}
	chunk := make([]byte, chunkBytes)
	for {
		n, err := conn.Read(chunk)
		add(&received, n)
		if err != nil {
			conn.Close()
			return
		}
	}
}

func serve(conn net.Conn) {
	if strings.HasPrefix(*workload, "bulk") {
		stream(conn)
		return
	}
	message := make([]byte, *size)
	for {
		if _, err := io.ReadFull(conn, message); err != nil {
			conn.Close()
			return
		}
		n, err := conn.Write(message)
		add(&received, n)
		add(&sent, n)
		add(&operations, 1)
		if err != nil || *workload == "connect-close" {
			conn.Close()
			return
		}
	}
}

func listen(s *stack.Stack) {
	listener, err := gonet.ListenTCP(s, tcpip.FullAddress{NIC: nic, Port: uint16(*port)}, ipv4.ProtocolNumber)
	if err != nil {
		fail("listen", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
}

func echoDatagrams(s *stack.Stack) {
	conn, err := gonet.DialUDP(s, &tcpip.FullAddress{NIC: nic, Port: uint16(*port)}, nil, ipv4.ProtocolNumber)
	if err != nil {
		fail("UDP socket", err)
	}
	go func() {
		datagram := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFrom(datagram)
			if err != nil {
				return
			}
			if _, err := conn.WriteTo(datagram[:n], from); err == nil {
				add(&operations, 1)
				add(&received, n)
			}
		}
	}()
}

func sample(since time.Time) {
	ns := time.Since(since).Nanoseconds()
	if atomic.LoadUint32(&measured) == 0 {
		return
	}
	atomic.AddUint64(&operations, 1)
	samplesLock.Lock()
	if len(samples) < samplesMax {
		samples = append(samples, uint32(ns))
	}
	samplesLock.Unlock()
}

func dial(s *stack.Stack) (net.Conn, error) {
	to := tcpip.FullAddress{NIC: nic, Addr: ip(*peer), Port: uint16(*port)}
	return gonet.DialTCP(s, to, ipv4.ProtocolNumber)
}

func exchange(conn net.Conn, message []byte) error {
	n, err := conn.Write(message)
	add(&sent, n)
	if err != nil {
		return err
	}
	n, err = io.ReadFull(conn, message)
	add(&received, n)
	return err
}

func client(s *stack.Stack) {
	for i := 0; i < *connections; i++ {
		if *workload == "connect-close" {
			go connectLoop(s)
			continue
		}
		conn, err := dial(s)
		if err != nil {
			fail("connect", err)
		}
		if strings.HasPrefix(*workload, "bulk") {
			go stream(conn)
			continue
		}
		go func() {
			message := make([]byte, *size)
			for {
				since := time.Now()
				if err := exchange(conn, message); err != nil {
					atomic.AddUint64(&failures, 1)
					return
				}
				sample(since)
			}
		}()
	}
}

func connectLoop(s *stack.Stack) {
	message := make([]byte, *size)
	for {
		since := time.Now()
		conn, err := dial(s)
		if err == nil {
			err = exchange(conn, message)
			if err == nil {
				// the server closes first
				if n, _ := conn.Read(message); n != 0 {
					err = io.ErrUnexpectedEOF
				}
			}
			conn.Close()
		}
		if err != nil {
			atomic.AddUint64(&failures, 1)
			continue
		}
		sample(since)
	}
}

func cpu() (user, system float64) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		fail("getrusage", err)
	}
	return float64(usage.Utime.Nano()) * 1e-9, float64(usage.Stime.Nano()) * 1e-9
}

func report() {
	begin, end := marks[0], marks[1]
	if begin == nil || end == nil {
		fail("report", "it ended before the measured time did")
	}
	mode := *carrier + " plain"
	if offload {
		mode = *carrier + " vnet"
	}
	line, err := json.Marshal(map[string]interface{}{
		"seconds":    end.at.Sub(begin.at).Seconds(),
		"operations": end.operations - begin.operations,
		"received":   end.received - begin.received,
		"sent":       end.sent - begin.sent,
		"cpu":        map[string]float64{"user": end.user - begin.user, "system": end.system - begin.system},
		"latency":    latency(),
		"facts": map[string]string{
			"stack": fmt.Sprintf("gVisor netstack of Debian (2022-12-19), CUBIC, SACK, RACK, buffers %d B", buffer),
			"mode":  mode,
		},
		"numbers": map[string]uint64{"failures": atomic.LoadUint64(&failures)},
	})
	if err != nil {
		fail("report", err)
	}
	fmt.Println(string(line))
}

func latency() interface{} {
	samplesLock.Lock()
	defer samplesLock.Unlock()
	if len(samples) == 0 {
		return nil
	}
	sort.Slice(samples, func(i, j int) bool { return samples[i] < samples[j] })
	sum := 0.0
	for _, ns := range samples {
		sum += float64(ns)
	}
	at := func(q float64) uint32 { return samples[int(float64(len(samples)-1)*q)] }
	return map[string]interface{}{
		"count": len(samples), "mean": sum / float64(len(samples)), "p50": at(0.5), "p90": at(0.9),
		"p99": at(0.99), "p999": at(0.999), "max": at(1),
	}
}

// follow takes the lines of the program that measures until it says stop or goes away.
func follow() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "begin":
			takeMark(0)
		case "end":
			takeMark(1)
		default:
			return
		}
	}
}

func sleep(seconds float64) { time.Sleep(time.Duration(seconds * float64(time.Second))) }

func measure(s *stack.Stack) {
	client(s)
	sleep(*warmup)
	fmt.Println("BEGIN")
	takeMark(0)
	atomic.StoreUint32(&measured, 1)
	for end := marks[0].at.Add(time.Duration(*seconds * 1e9)); time.Now().Before(end); {
		if atomic.LoadUint64(&operations) >= *most {
			break
		}
		sleep(0.001)
	}
	takeMark(1)
	atomic.StoreUint32(&measured, 0)
	fmt.Println("END")
}

func main() {
	parse()
	s := newStack()
	if *role == "client" {
		measure(s)
	} else {
		if *workload == "udp-echo" {
			echoDatagrams(s)
		} else {
			listen(s)
		}
		fmt.Println("READY")
		follow()
	}
	report()
}
