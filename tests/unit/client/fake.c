/* SPDX-License-Identifier: Apache-2.0 */
/* fake.c - see fake.h. One thread, poll(2), every request answered in turn. */
#include "fake.h"
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void send_all(int fd, const uint8_t *bytes, uint64_t len)
{
    while (len) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n <= 0) return;
        bytes += n;
        len -= (uint64_t)n;
    }
}

static void send_command(int fd, const struct zr_command *command, uint32_t type, int32_t flag, int32_t opaque)
{
    struct zl_buf out;
    zl_buf_init(&out, 64u << 20);
    if (zl_command_encode(&out, command, type, flag, opaque, command->body.len) == ZR_OK)
        send_all(fd, out.ptr, out.len);
    zl_buf_free(&out);
}

/* 0: go on; else the connection ends. */
static int serve(struct fake *f, int fd, struct zr_span frame)
{
    static _Thread_local struct zl_header h;
    char scratch[65536];
    const char *why;
    if (zl_header_decode(frame, &h, scratch, sizeof(scratch), &why) != ZR_OK) return 1;
    if (h.flag & ZL_FLAG_RESPONSE) {
        atomic_store(&f->last_answer_code, h.code);
        return 0;
    }
    struct fake_answer a = { 0 };
    int what = f->handle(f->ctx, &h, &a);
    /* Counted after it was handled: who sees the count sees its effects. */
    atomic_fetch_add(&f->n_oneway, (h.flag & ZL_FLAG_ONEWAY) != 0);
    atomic_fetch_add(&f->n_requests, 1);
    if (what == FAKE_CLOSE) return 1;
    if (a.tell) send_command(fd, a.tell, ZL_TYPE_JSON, 0, 4711);
    if (what == FAKE_RAW) send_all(fd, a.body.ptr, a.body.len);
    if (what != FAKE_ANSWER || (h.flag & ZL_FLAG_ONEWAY)) return 0;
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 1),
                            .code = a.code,
                            .fields = a.fields,
                            .n_fields = a.n_fields,
                            .remark = zl_str(a.remark),
                            .body = a.body };
    send_command(fd, &c, h.type, ZL_FLAG_RESPONSE, h.opaque);
    return 0;
}

static void drop(struct fake *f, int i)
{
    close(f->fds[i]);
    f->fds[i] = -1;
    zl_buf_free(&f->in[i]);
}

static void read_one(struct fake *f, int i)
{
    struct zl_buf *in = &f->in[i];
    if (!zl_buf_reserve(in, 65536)) return drop(f, i);
    ssize_t n = recv(f->fds[i], in->ptr + in->len, in->cap - in->len, MSG_DONTWAIT);
    if (n <= 0) return drop(f, i);
    in->len += (uint64_t)n;
    uint64_t at = 0, need;
    struct zr_span frame;
    while (zl_frame_cut((struct zr_span){ in->ptr + at, in->len - at }, &frame, &need) == ZR_OK) {
        if (serve(f, f->fds[i], frame)) return drop(f, i);
        at += frame.len;
    }
    memmove(in->ptr, in->ptr + at, in->len - at);
    in->len -= at;
}

static void take_conn(struct fake *f)
{
    int fd = accept(f->listen_fd, NULL, NULL);
    for (int i = 0; i < FAKE_CONNS && fd >= 0; i++)
        if (f->fds[i] < 0) {
            f->fds[i] = fd;
            zl_buf_init(&f->in[i], 64u << 20);
            atomic_fetch_add(&f->n_conns, 1);
            return;
        }
    if (fd >= 0) close(fd);
}

static void *run(void *arg)
{
    struct fake *f = arg;
    while (!atomic_load(&f->stop)) {
        struct pollfd p[FAKE_CONNS + 2] = { { .fd = f->listen_fd, .events = POLLIN },
                                            { .fd = f->wake_fd, .events = POLLIN } };
        for (int i = 0; i < FAKE_CONNS; i++) p[i + 2] = (struct pollfd){ .fd = f->fds[i], .events = POLLIN };
        poll(p, FAKE_CONNS + 2, -1);
        for (int i = 0; i < FAKE_CONNS; i++)
            if (f->fds[i] >= 0 && p[i + 2].revents) read_one(f, i);
        if (p[0].revents) take_conn(f);
    }
    return NULL;
}

static void bind_tcp(struct fake *f)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(in);
    f->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(f->listen_fd, (struct sockaddr *)&in, sizeof(in)) ||
        getsockname(f->listen_fd, (struct sockaddr *)&in, &len))
        abort();
    snprintf(f->addr, sizeof(f->addr), "127.0.0.1:%u", ntohs(in.sin_port));
}

static void bind_unix(struct fake *f, const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    f->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(f->listen_fd, (struct sockaddr *)&un, sizeof(un))) abort();
    snprintf(f->addr, sizeof(f->addr), "ipc://%s", path);
}

void fake_start(struct fake *f, const char *path)
{
    for (int i = 0; i < FAKE_CONNS; i++) f->fds[i] = -1;
    atomic_store(&f->last_answer_code, -1);
    if (path)
        bind_unix(f, path);
    else
        bind_tcp(f);
    f->wake_fd = eventfd(0, EFD_CLOEXEC);
    if (listen(f->listen_fd, 16) || pthread_create(&f->thread, NULL, run, f)) abort();
}

void fake_stop(struct fake *f)
{
    atomic_store(&f->stop, 1);
    eventfd_write(f->wake_fd, 1);
    pthread_join(f->thread, NULL);
    for (int i = 0; i < FAKE_CONNS; i++)
        if (f->fds[i] >= 0) drop(f, i);
    close(f->listen_fd);
    close(f->wake_fd);
}

char *fake_route(uint32_t queues, const char *const *addrs, uint32_t n)
{
    struct zl_buf b;
    zl_buf_init(&b, 1u << 20);
    zl_buf_cstr(&b, "{\"brokerDatas\":[");
    for (uint32_t i = 0; i < n; i++)
        zl_buf_fmt(&b, "%s{\"brokerAddrs\":{\"0\":\"%s\"},\"brokerName\":\"%c\",\"cluster\":\"C\"}", i ? "," : "",
                   addrs[i], 'a' + (char)i);
    zl_buf_cstr(&b, "],\"queueDatas\":[");
    for (uint32_t i = 0; i < n; i++)
        zl_buf_fmt(&b,
                   "%s{\"brokerName\":\"%c\",\"perm\":6,\"readQueueNums\":%u,\"writeQueueNums\":%u,\"topicSysFlag\":0}",
                   i ? "," : "", 'a' + (char)i, queues, queues);
    zl_buf_cstr(&b, "]}");
    zl_buf_u8(&b, 0);
    return (char *)b.ptr;
}
