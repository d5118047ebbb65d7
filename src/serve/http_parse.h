// A request as Beast has parsed it, as handlers see it. For http_server.cc and its fuzz target: Beast's headers are heavy.
#pragma once

#include <boost/beast/http.hpp>
#include <string>

#include "serve/http_server.h"

namespace rorqual {

inline HttpRequest to_request(boost::beast::http::request<boost::beast::http::string_body>&& r) {
  using boost::beast::http::field;
  const auto text = [](boost::beast::string_view s) { return std::string(s.data(), s.size()); };
  HttpRequest request;
  request.method = text(r.method_string());
  request.path = text(r.target());
  if (const size_t mark = request.path.find('?'); mark != std::string::npos) {
    request.query = request.path.substr(mark + 1);
    request.path.resize(mark);
  }
  request.host = r.count(field::host) == 1 ? text(r[field::host]) : "";  // two of them: none can be trusted
  request.origin = text(r[field::origin]);
  request.content_type = text(r[field::content_type]);
  request.authorization = text(r[field::authorization]);
  request.body = std::move(r.body());
  return request;
}

}  // namespace rorqual
