/* SPDX-License-Identifier: Apache-2.0 */
/* The four ways to a name server's address. */
#include "zc/client.h"
#include "zl/nsaddr.h"
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

/* An HTTP server that gives each of its answers once, in order. */
struct http {
    int fd;
    char url[128];
    const char *const *answers;
    int n;
    char request[4096]; /* the last one */
    pthread_t thread;
};

static void *http_run(void *arg)
{
    struct http *h = arg;
    for (int i = 0; i < h->n; i++) {
        int fd = accept(h->fd, NULL, NULL);
        if (fd < 0) break;
        size_t at = 0;
        ssize_t n;
        memset(h->request, 0, sizeof(h->request));
        while (!strstr(h->request, "\r\n\r\n") && (n = recv(fd, h->request + at, sizeof(h->request) - 1 - at, 0)) > 0)
            at += (size_t)n;
        if (h->answers[i])
            send(fd, h->answers[i], strlen(h->answers[i]), MSG_NOSIGNAL);
        else
            while (recv(fd, h->request, 1, 0) > 0) {
            } /* says nothing until the other side is gone */
        close(fd);
    }
    return NULL;
}

static void http_start(struct http *h, const char *const *answers, int n)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(in);
    h->fd = socket(AF_INET, SOCK_STREAM, 0);
    h->answers = answers;
    h->n = n;
    cr_assert_eq(bind(h->fd, (struct sockaddr *)&in, sizeof(in)), 0);
    cr_assert_eq(listen(h->fd, 8), 0);
    getsockname(h->fd, (struct sockaddr *)&in, &len);
    snprintf(h->url, sizeof(h->url), "http://127.0.0.1:%u/rocketmq/nsaddr", ntohs(in.sin_port));
    pthread_create(&h->thread, NULL, http_run, h);
}

static void http_stop(struct http *h)
{
    shutdown(h->fd, SHUT_RDWR);
    pthread_join(h->thread, NULL);
    close(h->fd);
}

static void expect_names(struct zc_client *c, const char *first, const char *second)
{
    char addr[ZC_NAME_MAX];
    struct zc_err err = { 0 };
    cr_expect_eq(zc_client_namesrv(c, 0, addr, &err), 0, "%s", err.text);
    cr_expect_str_eq(addr, first);
    if (second) {
        cr_expect_eq(zc_client_namesrv(c, 1, addr, &err), 0);
        cr_expect_str_eq(addr, second);
    }
    cr_expect_eq(zc_client_namesrv(c, second ? 2 : 1, addr, &err), ZC_ENONS);
}

Test(names, option_before_environment)
{
    setenv("NAMESRV_ADDR", "9.9.9.9:1", 1);
    struct zc_client *c =
        zc_client_open(&(struct zc_options){ .namesrv = " 10.0.0.1:9876 ; http://10.0.0.2:9877;;" }, NULL);
    cr_assert(c);
    expect_names(c, "10.0.0.1:9876", "10.0.0.2:9877");
    cr_expect_eq(zc_client_set_namesrv(c, "10.0.0.3:9876", NULL), 0);
    expect_names(c, "10.0.0.3:9876", NULL);
    struct zc_err err;
    cr_expect_eq(zc_client_set_namesrv(c, "nonsense", &err), ZC_EARG);
    cr_expect_eq(zc_client_set_namesrv(c, " ; ", &err), ZC_ENONS);
    expect_names(c, "10.0.0.3:9876", NULL);
    zc_client_close(c);
}

Test(names, environment)
{
    setenv("NAMESRV_ADDR", "9.9.9.9:1;8.8.8.8:2", 1);
    struct zc_client *c = zc_client_open(NULL, NULL);
    cr_assert(c);
    expect_names(c, "9.9.9.9:1", "8.8.8.8:2");
    zc_client_close(c);
}

Test(names, address_server)
{
    static const char *const ANSWERS[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n10.1.1.1:9876;10.1.1.2:9876\nsecond line"
    };
    static struct http h;
    unsetenv("NAMESRV_ADDR");
    http_start(&h, ANSWERS, 1);
    struct zc_client *c = zc_client_open(&(struct zc_options){ .address_server = h.url }, NULL);
    cr_assert(c);
    expect_names(c, "10.1.1.1:9876", "10.1.1.2:9876");
    zc_client_close(c);
    http_stop(&h);
    cr_expect_eq(strncmp(h.request, "GET /rocketmq/nsaddr HTTP/1.0\r\n", 31), 0, "%s", h.request);
}

/* The service thread asks again; its period is the test's. */
Test(names, address_server_asked_again, .timeout = 20)
{
    static const char *const ANSWERS[] = { "HTTP/1.0 200 OK\r\n\r\n10.1.1.1:9876",
                                           "HTTP/1.0 200 OK\r\n\r\n10.2.2.2:9876" };
    static struct http h;
    char addr[ZC_NAME_MAX] = "";
    unsetenv("NAMESRV_ADDR");
    http_start(&h, ANSWERS, 2);
    struct zc_client *c = zc_client_open(&(struct zc_options){ .address_server = h.url, .address_ms = 50 }, NULL);
    cr_assert(c);
    pthread_join(h.thread, NULL); /* both answers were taken */
    for (int i = 0; i < 1000 && strcmp(addr, "10.2.2.2:9876") != 0; i++) {
        zc_client_namesrv(c, 0, addr, NULL);
        usleep(1000);
    }
    cr_expect_str_eq(addr, "10.2.2.2:9876");
    zc_client_close(c);
    close(h.fd);
}

Test(names, answers_that_are_none)
{
    static const char *const ANSWERS[] = { "HTTP/1.1 404 Not Found\r\n\r\n10.1.1.1:9876", "HTTP/1.1 200 OK\r\n\r\n  \n",
                                           "garbage", "", NULL };
    static const zr_status WANT[] = { ZR_ENOENT, ZR_ENOENT, ZR_ENOENT, ZR_ENOENT, ZR_ETIMEOUT };
    static struct http h;
    char line[ZL_NAMESRV_TEXT_MAX];
    http_start(&h, ANSWERS, 5);
    for (int i = 0; i < 5; i++) {
        const char *why = NULL;
        cr_expect_eq(zl_namesrv_fetch(h.url, i == 4 ? 100 : 5000, line, sizeof(line), &why), WANT[i], "answer %d", i);
        cr_expect(why != NULL);
    }
    http_stop(&h);
    const char *why;
    cr_expect_eq(zl_namesrv_fetch("ftp://x/", 100, line, sizeof(line), &why), ZR_EINVAL);
    cr_expect_eq(zl_namesrv_fetch("http://", 100, line, sizeof(line), &why), ZR_EINVAL);
    cr_expect_eq(zl_namesrv_fetch("http://h:99999999/", 100, line, sizeof(line), &why), ZR_EINVAL);
}

Test(names, url)
{
    char url[256];
    cr_expect_eq(zl_namesrv_url(url, sizeof(url), NULL, NULL, NULL), ZR_OK);
    cr_expect_str_eq(url, "http://jmenv.tbsite.net:8080/rocketmq/nsaddr");
    cr_expect_eq(zl_namesrv_url(url, sizeof(url), "10.0.0.1:9999", "sub", "unit"), ZR_OK);
    cr_expect_str_eq(url, "http://10.0.0.1:9999/rocketmq/sub-unit?nofix=1");
    cr_expect_eq(zl_namesrv_url(url, 10, NULL, NULL, NULL), ZR_EFULL);
}
