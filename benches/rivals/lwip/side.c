/*
 * One side of a measurement on lwIP as Debian ships it (liblwip-dev), over a TUN or TAP interface.
 *
 * The library is built with threads (NO_SYS=0) and core locking. Frames are read by this thread and
 * given to the stack under the core lock, so that a callback runs to completion without a second
 * thread; lwIP's own thread only runs timers. Windows and send buffers are fixed at build time.
 *
 * Options, lines and results are those of `weft-bench side` (benches/src/side.rs).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <lwip/etharp.h>
#include <lwip/init.h>
#include <lwip/ip.h>
#include <lwip/netif.h>
#include <lwip/pbuf.h>
#include <lwip/tcp.h>
#include <lwip/tcpip.h>
#include <lwip/udp.h>
#include <netif/ethernet.h>

#define FRAME_BYTES_MAX 2048
#define FRAMES_PER_LOCK 64
#define SAMPLES_MAX (4u << 20)
#define CHUNK_BYTES (64u << 10)

enum workload { BULK_IN, BULK_OUT, BULK_BOTH, REQUEST_RESPONSE, CONNECT_CLOSE, UDP_ECHO, WORKLOADS };

static const char *const workload_names[WORKLOADS] = {
    "bulk-in", "bulk-out", "bulk-both", "request-response", "connect-close", "udp-echo",
};

static struct {
    int client, busy, tap;
    enum workload workload;
    const char *device, *local, *peer;
    unsigned port, bytes, connections, mtu;
    double seconds, warmup;
    uint64_t operations_max;
} opt = {
    .device = "net0",
    .local = "10.77.0.1",
    .peer = "10.77.0.2",
    .port = 5001,
    .bytes = 1,
    .connections = 1,
    .mtu = 1500,
    .seconds = 1,
    .warmup = 0.2,
    .operations_max = UINT64_MAX,
};

struct conn {
    struct tcp_pcb *pcb;
    uint32_t got;      /* bytes of the request or response that came so far */
    uint32_t to_send;  /* bytes of the current message not yet accepted by the stack */
    int answered;
    uint64_t since_ns; /* when the request was written */
};

static int device_fd;
static struct netif netif;
static uint8_t chunk[CHUNK_BYTES];
static uint32_t *samples;
static uint32_t sample_count;
static uint64_t received, sent, operations, failures;
static int measured; /* a client's samples count */
static int stopping;

/* Everything that is read when the measured time begins and when it ends. */
struct mark {
    uint64_t at_ns, operations, received, sent;
    struct rusage cpu;
    int taken;
};
static struct mark marks[2];

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "lwip side: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- device ---- */

static int open_device(void)
{
    struct ifreq request;
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        die("open /dev/net/tun");
    memset(&request, 0, sizeof request);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", opt.device);
    request.ifr_flags = IFF_NO_PI | (opt.tap ? IFF_TAP : IFF_TUN);
    if (ioctl(fd, TUNSETIFF, &request) < 0)
        die("attach to the interface");
    return fd;
}

static err_t write_frame(struct netif *n, struct pbuf *p)
{
    struct iovec parts[16];
    int count = 0;
    (void)n;
    for (struct pbuf *q = p; q != NULL; q = q->next) {
        if (count == 16)
            return ERR_BUF;
        parts[count].iov_base = q->payload;
        parts[count++].iov_len = q->len;
    }
    return writev(device_fd, parts, count) < 0 ? ERR_BUF : ERR_OK;
}

static err_t write_packet(struct netif *n, struct pbuf *p, const ip4_addr_t *to)
{
    (void)to;
    return write_frame(n, p);
}

static err_t netif_setup(struct netif *n)
{
    n->name[0] = 'w';
    n->name[1] = 'b';
    n->mtu = (u16_t)opt.mtu;
    if (opt.tap) {
        static const uint8_t mac[6] = {2, 0x77, 0, 0, 0, 2};
        memcpy(n->hwaddr, mac, 6);
        n->hwaddr_len = 6;
        n->output = etharp_output;
        n->linkoutput = write_frame;
        n->flags |= NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET;
    } else {
        n->output = write_packet;
    }
    n->flags |= NETIF_FLAG_LINK_UP;
    return ERR_OK;
}

/* Reads what waits and gives it to the stack; returns how many frames there were. */
static int take_frames(void)
{
    static uint8_t buffer[FRAME_BYTES_MAX];
    int n;
    LOCK_TCPIP_CORE();
    for (n = 0; n < FRAMES_PER_LOCK; n++) {
        ssize_t len = read(device_fd, buffer, sizeof buffer);
        struct pbuf *p;
        if (len <= 0)
            break;
        /* Not PBUF_POOL: the shipped library allocates those for a shorter MSS than it fills. */
        p = pbuf_alloc(PBUF_RAW, (u16_t)len, PBUF_RAM);
        if (p == NULL)
            continue;
        pbuf_take(p, buffer, (u16_t)len);
        if ((opt.tap ? ethernet_input(p, &netif) : ip_input(p, &netif)) != ERR_OK)
            pbuf_free(p);
    }
    UNLOCK_TCPIP_CORE();
    return n;
}

/* ---- TCP ---- */

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err);
static void open_connection(struct conn *c);

static void sample(uint64_t since)
{
    uint64_t ns = now_ns() - since;
    if (!measured)
        return;
    operations++;
    if (sample_count < SAMPLES_MAX)
        samples[sample_count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

/* Writes as much of the current message as the send buffer takes. */
static void push(struct conn *c)
{
    while (c->to_send > 0) {
        uint32_t n = tcp_sndbuf(c->pcb);
        if (n > c->to_send)
            n = c->to_send;
        if (n > CHUNK_BYTES - 1)
            n = CHUNK_BYTES - 1;
        if (n == 0 || tcp_write(c->pcb, chunk, (u16_t)n, 0) != ERR_OK)
            break;
        c->to_send -= n;
        sent += n;
    }
    tcp_output(c->pcb);
}

static int sends_bulk(void)
{
    return opt.workload == BULK_BOTH || opt.workload == (opt.client ? BULK_IN : BULK_OUT);
}

static int is_bulk(void)
{
    return opt.workload <= BULK_BOTH;
}

static void begin_message(struct conn *c)
{
    c->to_send = sends_bulk() ? UINT32_MAX : opt.bytes;
    c->since_ns = now_ns();
    push(c);
}

static int shut(struct tcp_pcb *pcb);

/* A server of connections of one request closes when its answer is written. */
static err_t answered(struct conn *c, struct tcp_pcb *pcb)
{
    if (opt.client || opt.workload != CONNECT_CLOSE || !c->answered || c->to_send > 0)
        return ERR_OK;
    free(c);
    return shut(pcb) ? ERR_ABRT : ERR_OK;
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
    struct conn *c = arg;
    (void)len;
    if (c == NULL)
        return ERR_OK;
    if (sends_bulk())
        c->to_send = UINT32_MAX;
    if (c->to_send > 0)
        push(c);
    return answered(c, pcb);
}

static void on_error(void *arg, err_t err)
{
    struct conn *c = arg;
    (void)err;
    failures++;
    if (c == NULL)
        return;
    c->pcb = NULL;
    if (!opt.client)
        free(c);
    else if (opt.workload == CONNECT_CLOSE && !stopping)
        open_connection(c);
}

static void attach(struct conn *c, struct tcp_pcb *pcb)
{
    c->pcb = pcb;
    c->got = 0;
    c->to_send = 0;
    tcp_arg(pcb, c);
    tcp_recv(pcb, on_recv);
    tcp_sent(pcb, on_sent);
    tcp_err(pcb, on_error);
    tcp_nagle_disable(pcb);
}

/* Closes; whether the pcb was aborted. */
static int shut(struct tcp_pcb *pcb)
{
    tcp_arg(pcb, NULL);
    tcp_recv(pcb, NULL);
    tcp_sent(pcb, NULL);
    tcp_err(pcb, NULL);
    if (tcp_close(pcb) == ERR_OK)
        return 0;
    tcp_abort(pcb);
    return 1;
}

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
    struct conn *c = arg;
    (void)err;
    if (p == NULL) {
        int aborted = shut(pcb);
        if (!opt.client) {
            free(c);
        } else if (opt.workload == CONNECT_CLOSE && !stopping) {
            sample(c->since_ns);
            open_connection(c);
        }
        return aborted ? ERR_ABRT : ERR_OK;
    }
    c->got += p->tot_len;
    received += p->tot_len;
    tcp_recved(pcb, p->tot_len);
    pbuf_free(p);
    if (is_bulk() || c->got < opt.bytes)
        return ERR_OK;
    c->got -= opt.bytes;
    if (!opt.client) {
        operations++;
        c->to_send += opt.bytes;
        c->answered = 1;
        push(c);
        return answered(c, pcb);
    }
    if (opt.workload == REQUEST_RESPONSE) {
        sample(c->since_ns);
        begin_message(c);
    }
    return ERR_OK;
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct conn *c = arg;
    (void)pcb;
    (void)err;
    uint64_t since = c->since_ns;
    if (!is_bulk() || sends_bulk())
        begin_message(c);
    if (opt.workload == CONNECT_CLOSE)
        c->since_ns = since;
    return ERR_OK;
}

static void open_connection(struct conn *c)
{
    ip_addr_t to;
    struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_V4);
    if (pcb == NULL || !ipaddr_aton(opt.peer, &to)) {
        failures++;
        return;
    }
    attach(c, pcb);
    c->since_ns = now_ns();
    if (tcp_connect(pcb, &to, (u16_t)opt.port, on_connected) != ERR_OK)
        failures++;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct conn *c;
    (void)arg;
    if (err != ERR_OK || pcb == NULL)
        return ERR_VAL;
    c = calloc(1, sizeof *c);
    if (c == NULL)
        return ERR_MEM;
    attach(c, pcb);
    if (sends_bulk())
        begin_message(c);
    return ERR_OK;
}

/* ---- UDP ---- */

static void on_datagram(void *arg, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *from, u16_t port)
{
    (void)arg;
    operations++;
    received += p->tot_len;
    sent += p->tot_len;
    udp_sendto(pcb, p, from, port);
    pbuf_free(p);
}

/* ---- the run ---- */

static void start(void)
{
    ip4_addr_t address, mask, gateway;
    ip4addr_aton(opt.local, &address);
    ip4addr_aton("255.255.0.0", &mask);
    ip4_addr_set_zero(&gateway);
    netif_add(&netif, &address, &mask, &gateway, NULL, netif_setup, opt.tap ? ethernet_input : ip_input);
    netif_set_default(&netif);
    netif_set_up(&netif);
    if (opt.workload == UDP_ECHO) {
        struct udp_pcb *pcb = udp_new();
        udp_bind(pcb, IP_ADDR_ANY, (u16_t)opt.port);
        udp_recv(pcb, on_datagram, NULL);
    } else if (!opt.client) {
        struct tcp_pcb *pcb = tcp_new_ip_type(IPADDR_TYPE_V4);
        tcp_bind(pcb, IP_ADDR_ANY, (u16_t)opt.port);
        pcb = tcp_listen_with_backlog(pcb, 255);
        tcp_accept(pcb, on_accept);
    }
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t quantile(double q)
{
    return sample_count == 0 ? 0 : samples[(uint32_t)((sample_count - 1) * q)];
}

static double seconds_of(struct timeval t)
{
    return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static void say(const char *line)
{
    puts(line);
    fflush(stdout);
}

static void take_mark(int which)
{
    struct mark *m = &marks[which];
    *m = (struct mark){.at_ns = now_ns(), .operations = operations, .received = received, .sent = sent, .taken = 1};
    getrusage(RUSAGE_SELF, &m->cpu);
}

static void report(void)
{
    const struct mark *a = &marks[0], *b = &marks[1];
    double sum = 0;
    if (!a->taken || !b->taken) {
        fprintf(stderr, "it ended before the measured time did\n");
        exit(1);
    }
    printf("{\"seconds\":%.9f,\"operations\":%llu,\"received\":%llu,\"sent\":%llu,",
           (double)(b->at_ns - a->at_ns) * 1e-9, (unsigned long long)(b->operations - a->operations),
           (unsigned long long)(b->received - a->received), (unsigned long long)(b->sent - a->sent));
    printf("\"cpu\":{\"user\":%.6f,\"system\":%.6f},",
           seconds_of(b->cpu.ru_utime) - seconds_of(a->cpu.ru_utime),
           seconds_of(b->cpu.ru_stime) - seconds_of(a->cpu.ru_stime));
    qsort(samples, sample_count, sizeof *samples, by_value);
    for (uint32_t i = 0; i < sample_count; i++)
        sum += samples[i];
    if (sample_count > 0)
        printf("\"latency\":{\"count\":%u,\"mean\":%.1f,\"p50\":%u,\"p90\":%u,\"p99\":%u,\"p999\":%u,\"max\":%u},",
               sample_count, sum / sample_count, quantile(0.5), quantile(0.9), quantile(0.99), quantile(0.999),
               quantile(1));
    else
        printf("\"latency\":null,");
    printf("\"facts\":{\"stack\":\"lwIP " LWIP_VERSION_STRING " of Debian, threads and core locking, window %u B, "
           "send buffer %u B, MSS %u, Reno, no SACK\",\"mode\":\"%s plain\"},\"numbers\":{\"failures\":%llu}}\n",
           (unsigned)TCP_WND, (unsigned)TCP_SND_BUF, (unsigned)TCP_MSS, opt.tap ? "tap" : "tun",
           (unsigned long long)failures);
    fflush(stdout);
}

/* Takes the lines of the program that measures; whether it says stop or went away. */
static int follow(void)
{
    static char line[64];
    static size_t length;
    struct pollfd fd = {.fd = 0, .events = POLLIN};
    while (poll(&fd, 1, 0) > 0) {
        char c;
        if (read(0, &c, 1) <= 0)
            return 1;
        if (c != '\n') {
            if (length < sizeof line - 1)
                line[length++] = c;
            continue;
        }
        line[length] = 0;
        length = 0;
        if (strcmp(line, "begin") == 0)
            take_mark(0);
        else if (strcmp(line, "end") == 0)
            take_mark(1);
        else
            return 1;
    }
    return 0;
}

/* A client's clock; whether it is over. */
static int over(uint64_t now)
{
    static uint64_t until;
    if (until == 0)
        until = now + (uint64_t)(opt.warmup * 1e9);
    if (now < until && operations < opt.operations_max)
        return 0;
    if (!measured) {
        say("BEGIN");
        take_mark(0);
        measured = 1;
        until = now + (uint64_t)(opt.seconds * 1e9);
        return 0;
    }
    take_mark(1);
    measured = 0;
    say("END");
    return 1;
}

static void run(void)
{
    struct pollfd fds[2] = {{.fd = device_fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    uint64_t check = 0;
    if (opt.client) {
        struct conn *conns = calloc(opt.connections, sizeof *conns);
        LOCK_TCPIP_CORE();
        for (unsigned i = 0; conns != NULL && i < opt.connections; i++)
            open_connection(&conns[i]);
        UNLOCK_TCPIP_CORE();
    }
    for (;;) {
        int n = take_frames();
        uint64_t now = now_ns();
        if (opt.client && over(now))
            break;
        if (now >= check) {
            if (follow())
                break;
            check = now + 500000;
        }
        if (n == 0 && !opt.busy)
            poll(fds, 2, opt.client ? 1 : 100);
    }
    stopping = 1;
}

static enum workload workload_of(const char *name)
{
    int w = 0;
    while (w < WORKLOADS && strcmp(workload_names[w], name) != 0)
        w++;
    if (w == WORKLOADS) {
        fprintf(stderr, "engine 'lwip' does not do %s\n", name);
        exit(2);
    }
    return (enum workload)w;
}

static void parse(int argc, char **argv)
{
    enum { ROLE = 1, WORKLOAD, POLL, CARRIER, DEVICE, LOCAL, PEER, PORT, BYTES, MTU, CONNECTIONS, SECONDS, WARMUP,
           OPERATIONS_MAX, IGNORED };
    static const struct option names[] = {
        {"role", 1, 0, ROLE},           {"workload", 1, 0, WORKLOAD},
        {"poll", 1, 0, POLL},           {"carrier", 1, 0, CARRIER},
        {"device", 1, 0, DEVICE},       {"local", 1, 0, LOCAL},
        {"peer", 1, 0, PEER},           {"port", 1, 0, PORT},
        {"bytes", 1, 0, BYTES},         {"mtu", 1, 0, MTU},
        {"seconds", 1, 0, SECONDS},     {"connections", 1, 0, CONNECTIONS},
        {"warmup-s", 1, 0, WARMUP},     {"operations-max", 1, 0, OPERATIONS_MAX},
        {"engine", 1, 0, IGNORED},      {"queues", 1, 0, IGNORED},
        {"cpu", 1, 0, IGNORED},         {"extra", 1, 0, IGNORED},
        {0, 0, 0, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (c) {
        case ROLE: opt.client = strcmp(optarg, "client") == 0; break;
        case WORKLOAD: opt.workload = workload_of(optarg); break;
        case POLL: opt.busy = strcmp(optarg, "busy") == 0; break;
        case CARRIER: opt.tap = strcmp(optarg, "tap") == 0; break;
        case DEVICE: opt.device = optarg; break;
        case LOCAL: opt.local = optarg; break;
        case PEER: opt.peer = optarg; break;
        case PORT: opt.port = (unsigned)atoi(optarg); break;
        case BYTES: opt.bytes = (unsigned)atoi(optarg); break;
        case MTU: opt.mtu = (unsigned)atoi(optarg); break;
        case CONNECTIONS: opt.connections = (unsigned)atoi(optarg); break;
        case SECONDS: opt.seconds = atof(optarg); break;
        case WARMUP: opt.warmup = atof(optarg); break;
        case OPERATIONS_MAX: opt.operations_max = strtoull(optarg, NULL, 10); break;
        case IGNORED: break;
        default: exit(2);
        }
    }
    if (opt.mtu > 1500 || opt.bytes == 0) {
        fprintf(stderr, "the MSS of Debian's lwIP is fixed at %u: an MTU of at most 1500\n", (unsigned)TCP_MSS);
        exit(2);
    }
    if (opt.workload == UDP_ECHO && opt.client) {
        fprintf(stderr, "engine 'lwip' does UDP echo as the server only\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    parse(argc, argv);
    samples = malloc(SAMPLES_MAX * sizeof *samples);
    if (samples == NULL)
        die("memory for samples");
    device_fd = open_device();
    tcpip_init(NULL, NULL);
    LOCK_TCPIP_CORE();
    start();
    UNLOCK_TCPIP_CORE();
    if (!opt.client)
        say("READY");
    run();
    report();
    return 0;
}
