#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "serve/api.h"

namespace rorqual {
namespace {

TEST(ApiAccess, KnownHostsAlone) {
  ApiSettings s;
  for (const char* good : {"localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080", "[::1]"})
    EXPECT_TRUE(host_allowed(good, s)) << good;
  for (const char* bad : {"", "evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "10.0.0.7:8080", "[",
                          ":80", "[fe80::1]:80"})
    EXPECT_FALSE(host_allowed(bad, s)) << bad;
  s.allowed_hosts = {"Box.lan"};
  EXPECT_TRUE(host_allowed("box.LAN:8080", s));
  s.host = "0.0.0.0";
  EXPECT_TRUE(host_allowed("10.0.0.7:8080", s)) << "an address in digits cannot be pointed elsewhere";
  EXPECT_FALSE(host_allowed("evil.example", s));
  s.host = "192.168.1.5";
  EXPECT_TRUE(host_allowed("192.168.1.5:80", s));
  EXPECT_FALSE(host_allowed("192.168.1.6:80", s));
}

TEST(ApiAccess, KeysAreEqualOrNot) {
  EXPECT_TRUE(constant_time_equal("secret", "secret"));
  for (const char* other : {"", "secre", "secrets", "Secret", "secretsecret", "terces"}) {
    EXPECT_FALSE(constant_time_equal(other, "secret")) << other;
    EXPECT_FALSE(constant_time_equal("secret", other)) << other;
  }
  EXPECT_FALSE(constant_time_equal("aa", "a")) << "a repeated key is another one";
}

TEST(ApiAccess, KeyFilesHoldAKeyALine) {
  const std::filesystem::path file = std::filesystem::path(::testing::TempDir()) / "rorqual_api_keys";
  write_file_atomically(file, "# mine\nfirst-key\r\n\n  \nsecond.key  \n");
  EXPECT_THAT(read_api_keys(file), ::testing::ElementsAre("first-key", "second.key"));
  write_file_atomically(file, "# none\n");
  EXPECT_THROW(read_api_keys(file), Error);
  write_file_atomically(file, "two words\n");
  EXPECT_THROW(read_api_keys(file), Error);
  std::filesystem::remove(file);
}

}  // namespace
}  // namespace rorqual
