# rorqual_embed(FILE HEADER NAME): writes HEADER under the build's generated/ folder, which holds FILE as rorqual::NAME, a
# std::string_view. A changed FILE runs CMake again.
function(rorqual_embed file header name)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${file})
  file(READ ${CMAKE_SOURCE_DIR}/${file} text)
  string(FIND "${text}" ")embedded\"" end)
  if(NOT end EQUAL -1)
    message(FATAL_ERROR "${file} holds the delimiter of the literal that embeds it: )embedded\"")
  endif()
  set(out ${CMAKE_BINARY_DIR}/generated/${header})
  file(WRITE ${out}.new "// Made from ${file} by cmake/EmbedFile.cmake.\n#pragma once\n\n#include <string_view>\n\nnamespace rorqual {\n\n"
       "inline constexpr std::string_view ${name} = R\"embedded(${text})embedded\";\n\n}  // namespace rorqual\n")
  file(COPY_FILE ${out}.new ${out} ONLY_IF_DIFFERENT)
  file(REMOVE ${out}.new)
endfunction()
