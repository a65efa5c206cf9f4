package main

import (
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/bufferv2"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/rawfile"
	"gvisor.dev/gvisor/pkg/tcpip/link/stopfd"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	vnetHeaderBytes = 10
	needsChecksum   = 1
	gsoTCPv4        = 1
	gsoTCPv6        = 4
	// What a read without and one with a super-segment needs.
	smallBytes = 2048
	largeBytes = 65536
)

// openTun attaches to an interface, with the virtio-net header and all TCP offloads if asked for.
func openTun(name string, tap, offload bool) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	var request struct {
		name  [16]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:15], name)
	request.flags = unix.IFF_NO_PI | unix.IFF_TUN
	if tap {
		request.flags = unix.IFF_NO_PI | unix.IFF_TAP
	}
	if offload {
		request.flags |= unix.IFF_VNET_HDR
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); e != 0 {
		return -1, fmt.Errorf("attach to %s: %w", name, e)
	}
	if offload {
		const csumTSO4TSO6 = 1 | 2 | 4
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETOFFLOAD, csumTSO4TSO6); e != 0 {
			return -1, fmt.Errorf("offloads of %s: %w", name, e)
		}
	}
	return fd, nil
}

// vnetEndpoint is a link over a TUN or TAP descriptor with the virtio-net header: whole
// super-segments and partial checksums both ways. gVisor's own fdbased link does that on sockets
// only.
type vnetEndpoint struct {
	fd         int
	mtu        uint32
	headerSize int
	addr       tcpip.LinkAddress
	dispatcher stack.NetworkDispatcher
	done       chan struct{}
}

func newVnetEndpoint(fd int, mtu uint32, addr tcpip.LinkAddress) *vnetEndpoint {
	e := &vnetEndpoint{fd: fd, mtu: mtu, addr: addr, done: make(chan struct{})}
	if addr != "" {
		e.headerSize = header.EthernetMinimumSize
	}
	return e
}

func (e *vnetEndpoint) MTU() uint32                      { return e.mtu }
func (e *vnetEndpoint) MaxHeaderLength() uint16          { return uint16(e.headerSize) }
func (e *vnetEndpoint) LinkAddress() tcpip.LinkAddress   { return e.addr }
func (e *vnetEndpoint) IsAttached() bool                 { return e.dispatcher != nil }
func (e *vnetEndpoint) Wait()                            { <-e.done }
func (e *vnetEndpoint) GSOMaxSize() uint32               { return 65535 - 256 }
func (e *vnetEndpoint) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

func (e *vnetEndpoint) Capabilities() stack.LinkEndpointCapabilities {
	// Transmit checksums are left to the kernel per packet (GSOOptions); a SYN has a whole one.
	caps := stack.LinkEndpointCapabilities(stack.CapabilityRXChecksumOffload)
	if e.headerSize > 0 {
		caps |= stack.CapabilityResolutionRequired
	}
	return caps
}

func (e *vnetEndpoint) ARPHardwareType() header.ARPHardwareType {
	if e.headerSize > 0 {
		return header.ARPHardwareEther
	}
	return header.ARPHardwareNone
}

func (e *vnetEndpoint) AddHeader(pkt stack.PacketBufferPtr) {
	if e.headerSize == 0 {
		return
	}
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

func (e *vnetEndpoint) Attach(dispatcher stack.NetworkDispatcher) {
	if dispatcher == nil || e.dispatcher != nil {
		return
	}
	e.dispatcher = dispatcher
	go e.readLoop()
}

func (e *vnetEndpoint) readLoop() {
	defer close(e.done)
	stop, failed := stopfd.New()
	if failed != nil {
		fail("event descriptor", failed)
	}
	var vnet [vnetHeaderBytes]byte
	var small, large *bufferv2.View
	for {
		if small == nil {
			small = bufferv2.NewViewSize(smallBytes)
		}
		if large == nil {
			large = bufferv2.NewViewSize(largeBytes)
		}
		iovecs := rawfile.AppendIovecFromBytes(nil, vnet[:], 3)
		iovecs = rawfile.AppendIovecFromBytes(iovecs, small.AsSlice(), 3)
		iovecs = rawfile.AppendIovecFromBytes(iovecs, large.AsSlice(), 3)
		n, err := rawfile.BlockingReadvUntilStopped(stop.EFD, e.fd, iovecs)
		if err != nil {
			return
		}
		n -= vnetHeaderBytes
		if n <= 0 {
			continue
		}
		payload := bufferv2.Buffer{}
		small.CapLength(min(n, smallBytes))
		payload.Append(small)
		small = nil
		if n > smallBytes {
			large.CapLength(n - smallBytes)
			payload.Append(large)
			large = nil
		}
		e.deliver(payload)
	}
}

func (e *vnetEndpoint) deliver(payload bufferv2.Buffer) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
	defer pkt.DecRef()
	protocol := header.IPv4ProtocolNumber
	if e.headerSize > 0 {
		hdr, ok := pkt.LinkHeader().Consume(e.headerSize)
		if !ok {
			return
		}
		protocol = header.Ethernet(hdr).Type()
	} else if first, ok := pkt.Data().PullUp(1); !ok || header.IPVersion(first) != header.IPv4Version {
		return
	}
	e.dispatcher.DeliverNetworkPacket(protocol, pkt)
}

func (e *vnetEndpoint) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		if err := e.write(pkt); err != nil {
			return i, err
		}
	}
	return pkts.Len(), nil
}

func (e *vnetEndpoint) write(pkt stack.PacketBufferPtr) tcpip.Error {
	var vnet [vnetHeaderBytes]byte
	put := func(at int, value uint16) { vnet[at], vnet[at+1] = byte(value), byte(value>>8) }
	gso := pkt.GSOOptions
	if gso.Type != stack.GSONone {
		put(2, uint16(pkt.HeaderSize()))
		if gso.NeedsCsum {
			vnet[0] = needsChecksum
			put(6, uint16(e.headerSize)+gso.L3HdrLen)
			put(8, gso.CsumOffset)
		}
		if pkt.Data().Size() > int(gso.MSS) {
			vnet[1] = gsoTCPv4
			if gso.Type == stack.GSOTCPv6 {
				vnet[1] = gsoTCPv6
			}
			put(4, gso.MSS)
		}
	}
	views := pkt.AsSlices()
	iovecs := make([]unix.Iovec, 0, 64)
	iovecs = rawfile.AppendIovecFromBytes(iovecs, vnet[:], rawfile.MaxIovs)
	for _, v := range views {
		iovecs = rawfile.AppendIovecFromBytes(iovecs, v, rawfile.MaxIovs)
	}
	return rawfile.NonBlockingWriteIovec(e.fd, iovecs)
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

// packetLink is gVisor's own link over an AF_PACKET socket on the interface.
func packetLink() stack.LinkEndpoint {
	iface, err := net.InterfaceByName(*device)
	if err != nil {
		fail("interface", err)
	}
	const allProtocols = 0x0300 // ETH_P_ALL in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, allProtocols)
	if err != nil {
		fail("packet socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: iface.Index}); err != nil {
		fail("packet socket", err)
	}
	e, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: uint32(*mtu), EthernetHeader: true,
		Address:            tcpip.LinkAddress(iface.HardwareAddr),
		PacketDispatchMode: fdbased.RecvMMsg,
	})
	if err != nil {
		fail("fdbased link", err)
	}
	return e
}
