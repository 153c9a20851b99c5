"""Operations on the files of a closed tenant."""
