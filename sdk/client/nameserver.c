/* SPDX-License-Identifier: Apache-2.0 */
/* nameserver.c - where the name servers are, and calls to one of them.
 *
 * Addresses come from, in this order: the options (or zc_client_set_namesrv), the environment's NAMESRV_ADDR, the HTTP
 * address server. Only those of the address server are asked for again (by the service thread, every two minutes). A
 * call goes to the current one and moves on to the next when it cannot be reached or does not answer in time. */
#include "internal.h"
#include "zl/nsaddr.h"
#include <stdio.h>

#define ADDRESS_TIMEOUT_MS 3000

/* Reads "a:1;b:2" (blanks, commas and "http://" in front are forgiven) into addrs. */
static int names_parse(const char *text, char addrs[][ZC_NAME_MAX], uint32_t *ret_n, struct zc_err *err)
{
    struct zr_str rest = zl_str(text), part;
    uint32_t n = 0;
    while (zl_split(&rest, ';', &part)) {
        part = zl_trim(part);
        if (zl_starts(part, "http://")) part.ptr += 7, part.len -= 7;
        if (part.len == 0) continue;
        if (n == ZC_MAX_NAMESRVS) return zc_fail(err, ZC_EFULL, "more than %u name servers", ZC_MAX_NAMESRVS);
        if (zc_copy_name(addrs[n], part)) return zc_fail(err, ZC_EARG, "a name server's address is too long");
        if (!zl_starts(part, "ipc://") && !strrchr(addrs[n], ':'))
            return zc_fail(err, ZC_EARG, "%s is no name server address (host:port)", addrs[n]);
        n++;
    }
    if (n == 0) return zc_fail(err, ZC_ENONS, "no name server address in \"%s\"", text);
    *ret_n = n;
    return ZC_OK;
}

int zc_names_set(struct zc_names *names, const char *text, struct zc_err *err)
{
    char(*addrs)[ZC_NAME_MAX] = malloc(sizeof(names->addrs));
    uint32_t n = 0;
    if (!addrs) return zc_fail(err, ZC_ENOMEM, "memory ran out");
    int rc = names_parse(text, addrs, &n, err);
    if (rc == 0) {
        pthread_mutex_lock(&names->lock);
        if (n != names->n || memcmp(addrs, names->addrs, n * ZC_NAME_MAX) != 0) {
            memcpy(names->addrs, addrs, n * ZC_NAME_MAX);
            names->n = n;
            names->current = 0;
        }
        pthread_mutex_unlock(&names->lock);
    }
    free(addrs);
    return rc;
}

int zc_names_refresh(struct zc_names *names, struct zc_err *err)
{
    char line[ZL_NAMESRV_TEXT_MAX];
    const char *why = NULL;
    if (!names->from_server) return ZC_OK;
    if (zl_namesrv_fetch(names->url, ADDRESS_TIMEOUT_MS, line, sizeof(line), &why) != ZR_OK)
        return zc_fail(err, ZC_ENONS, "no name server address is given (option, NAMESRV_ADDR), and %s: %s", names->url,
                       why);
    return zc_names_set(names, line, err);
}

int zc_names_init(struct zc_names *names, const struct zc_options *options, struct zc_err *err)
{
    char url[1024];
    pthread_mutex_init(&names->lock, NULL);
    const char *given = options->namesrv && *options->namesrv ? options->namesrv : getenv("NAMESRV_ADDR");
    if (given && *given) return zc_names_set(names, given, err);
    names->from_server = 1;
    if (options->address_server && *options->address_server) {
        names->url = strdup(options->address_server);
    } else {
        if (zl_namesrv_url(url, sizeof(url), getenv("ROCKETMQ_NAMESRV_DOMAIN"), getenv("ROCKETMQ_NAMESRV_SUBGROUP"),
                           NULL) != ZR_OK)
            return zc_fail(err, ZC_EARG, "ROCKETMQ_NAMESRV_DOMAIN is too long");
        names->url = strdup(url);
    }
    if (!names->url) return zc_fail(err, ZC_ENOMEM, "memory ran out");
    return ZC_OK; /* asked for at the first use: plain calls need no name server */
}

void zc_names_fini(struct zc_names *names)
{
    free(names->url);
    pthread_mutex_destroy(&names->lock);
}

static uint32_t names_current(struct zc_names *names, uint32_t step, char to[ZC_NAME_MAX])
{
    pthread_mutex_lock(&names->lock);
    uint32_t n = names->n;
    if (n) memcpy(to, names->addrs[(names->current + step) % n], ZC_NAME_MAX);
    pthread_mutex_unlock(&names->lock);
    return n;
}

static void names_prefer(struct zc_names *names, const char *addr)
{
    pthread_mutex_lock(&names->lock);
    for (uint32_t i = 0; i < names->n; i++)
        if (strcmp(names->addrs[i], addr) == 0) names->current = i;
    pthread_mutex_unlock(&names->lock);
}

int zc_names_call(struct zc_client *client, const struct zc_request *request, struct zc_response **ret,
                  struct zc_err *err)
{
    char addr[ZC_NAME_MAX];
    int rc = ZC_ENONS;
    int32_t timeout = request->timeout_ms ? request->timeout_ms : client->options.timeout_ms;
    *ret = NULL;
    uint32_t n = names_current(&client->names, 0, addr);
    if (n == 0) {
        if ((rc = zc_names_refresh(&client->names, err))) return rc;
        n = names_current(&client->names, 0, addr);
    }
    for (uint32_t i = 0; i < n; i++) {
        names_current(&client->names, i, addr);
        rc = zc_io_call(client->io, addr, request, timeout, ret, err);
        if (rc == 0) {
            if (i) names_prefer(&client->names, addr);
            return ZC_OK;
        }
    }
    return rc;
}

int zc_client_namesrv(struct zc_client *client, uint32_t n, char to[ZC_NAME_MAX], struct zc_err *err)
{
    struct zc_names *names = &client->names;
    pthread_mutex_lock(&names->lock);
    uint32_t known = names->n;
    pthread_mutex_unlock(&names->lock);
    if (known == 0) {
        int rc = zc_names_refresh(names, err);
        if (rc) return rc;
    }
    int rc = ZC_OK;
    pthread_mutex_lock(&names->lock);
    if (n < names->n)
        memcpy(to, names->addrs[n], ZC_NAME_MAX);
    else
        rc = ZC_ENONS;
    pthread_mutex_unlock(&names->lock);
    return rc ? zc_fail(err, rc, "there are fewer than %u name servers", n + 1) : ZC_OK;
}
